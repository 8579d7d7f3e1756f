"""A strict double of the `deepmind_lab` module, for tests: it has the interface and fails where the real one fails.

What is copied are signatures, types, errors, crashes and exactness as measured on the real engine (a compiled module);
what happens inside a level is made up, except that the room task pays as the real one does. DEEPMIND_LAB_DOUBLE names
faults: of an engine that the conformance command must refuse, and those that kill a world while it plays ("mortal": its
process ends in the fifth step of every episode; "stillborn": in every reset but the first; "stumbles": the level's
script raises an error in the fifth step; "balks": the engine raises a ValueError in it), or a machine without the
hardware renderer's library ("no_hardware").
"""

import os
import random
import signal
import sys
import tempfile
import time
import zlib

import numpy as np

FAULTS = set(os.environ.get("DEEPMIND_LAB_DOUBLE", "").split(","))
_PREFIX = "contributed/dmlab30/"
_SECONDS = {"rooms_select_nonmatching_object": 12, "rooms_watermaze": 120}
_FIXED = {
    "rooms_collect_good_objects_test", "rooms_collect_good_objects_train",
    "rooms_exploit_deferred_effects_test", "rooms_exploit_deferred_effects_train",
    "rooms_select_nonmatching_object", "rooms_watermaze",
    "natlab_fixed_large_map", "natlab_varying_map_regrowth", "natlab_varying_map_randomized",
    "psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition",
    "psychlab_sequential_comparison", "psychlab_visual_search",
}  # fmt: skip
_LANGUAGE = {
    "language_select_described_object", "language_select_located_object",
    "language_execute_random_task", "language_answer_quantitative_question",
}  # fmt: skip
_COMPILED = {
    "rooms_keys_doors_puzzle",
    "lasertag_one_opponent_small", "lasertag_three_opponents_small",
    "lasertag_one_opponent_large", "lasertag_three_opponents_large",
    "skymaze_irreversible_path_hard", "skymaze_irreversible_path_varied",
    "explore_object_locations_small", "explore_object_locations_large",
    "explore_obstructed_goals_small", "explore_obstructed_goals_large",
    "explore_goal_locations_small", "explore_goal_locations_large",
    "explore_object_rewards_few", "explore_object_rewards_many",
}  # fmt: skip
_TEST_ONLY = {"rooms_collect_good_objects_test", "rooms_exploit_deferred_effects_test"}
_OWN_LENGTH = {  # whatever episodeLengthSeconds says
    *_TEST_ONLY, "rooms_collect_good_objects_train", "rooms_exploit_deferred_effects_train", "rooms_keys_doors_puzzle",
}  # fmt: skip
_NEEDS_IMAGES = {"psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition"}
_MISSING_MAPS = {"natlab_fixed_large_map": "natlab_forage_ltm_day"}
_ENGINE_KEYS = {
    "width", "height", "fps", "levelDirectory", "appendCommand", "mixerSeed", "gpuDeviceIndex", "vmMode",
    "logToStdErr", "minimalUI", "reducedUI", "use_pbos", "maxAltCameraWidth", "maxAltCameraHeight", "hasAltCameras",
    "localLevelCache",
}  # fmt: skip
_LEVEL_KEYS = {
    "episodeLengthSeconds", "allowHoldOutLevels", "randomSeed", "datasetPath", "logLevel", "levelGenerator",
    "players", "invocationMode", "playerId",
}  # fmt: skip
_OBSERVATIONS = {
    "RGB_INTERLEAVED", "RGBD_INTERLEAVED", "RGB", "RGBD", "VEL.TRANS", "VEL.ROT", "INSTR", "TEAM.SCORE",
    "FRAMES_REMAINING_AT_60", "DEBUG.POS.TRANS", "DEBUG.POS.ROT",
}  # fmt: skip
_ACTIONS = (
    ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", 512),
    ("LOOK_DOWN_UP_PIXELS_PER_FRAME", 512),
    ("STRAFE_LEFT_RIGHT", 1),
    ("MOVE_BACK_FORWARD", 1),
    ("FIRE", 1),
    ("JUMP", 1),
    ("CROUCH", 1),
)
_live = 0


def _child_of_a_fork():
    # The real renderer's threads do not exist in the child, which then waits for them.
    if _live and os.environ.get("LP_NUM_THREADS") != "0":
        time.sleep(3600)


os.register_at_fork(after_in_child=_child_of_a_fork)


def version():
    return "1.0"


def runfiles_path():
    return os.path.dirname(__file__)


class Lab:
    """One level; positional and keyword arguments as in the C module."""

    def __init__(
        self, level, observations, config={}, renderer="software", level_cache=None, temp_folder=""  # noqa: B006
    ):  # fmt: skip
        global _live
        for value, kind, what in (
            (level, str, "argument 1"), (observations, list, "argument 2"), (config, dict, "argument 3"),
            (renderer, str, "argument 4"), (temp_folder, str, "argument 6"),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise TypeError(f"Lab() {what} must be {kind.__name__}, not {type(value).__name__}")
        if renderer not in ("software", "hardware"):
            raise RuntimeError(
                f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!'
            )
        if renderer == "hardware" and "no_hardware" in FAULTS:
            library = os.path.join(runfiles_path(), "libdmlab_headless_hw.so")
            print(f"Failed to open library! - {library}", file=sys.stderr)
            print("libEGL.so.1: cannot open shared object file", file=sys.stderr, flush=True)
            raise RuntimeError("Failed to connect RL API")
        self._name = level.removeprefix(_PREFIX)
        if not level.startswith(_PREFIX) or self._name not in _FIXED | _LANGUAGE | _COMPILED:
            raise RuntimeError(
                f'Failed to init environment - "Level not found: {level}"'
            )  # fmt: skip
        self._size, self._mix, self._seconds = [240, 320], 0, _SECONDS.get(self._name, 60)
        self._config = self._settings(config)
        if "no_debug" in FAULTS:
            known = {name for name in _OBSERVATIONS if not name.startswith("DEBUG")}
        else:
            known = _OBSERVATIONS
        for name in observations:
            if name not in known:
                raise ValueError(f"Unknown observation '{name}'.")
        self._wanted, self._maps = list(observations), set()
        self._cache = level_cache
        self._folder, self._folder_owned = temp_folder, not temp_folder
        if self._folder_owned:
            where = os.environ.get("TEST_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
            self._folder = tempfile.mkdtemp(prefix="dmlab_temp_folder_", dir=where)
        self._status, self._resets, self._episode, self._steps = "uninitialized", 0, 0, 0
        _live += 1

    def _settings(self, config):
        for key, value in config.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError("bad argument type for built-in operation")
            refused = f"Failed to apply setting '{key} = {value}'"
            if key in ("width", "height"):
                if not value.isdigit() or int(value) < 4 or int(value) % 4:
                    raise RuntimeError(f'{refused} - "Must be a positive multiple of 4"')
                self._size[key == "width"] = int(value)
            elif key == "mixerSeed":
                try:
                    self._mix = int(value, 16 if value.startswith("0x") else 10)
                except ValueError:
                    self._mix = -1
                if not 0 <= self._mix < 2**32:
                    raise RuntimeError(f'{refused} - "Invalid mixer seed"')
            elif key not in _ENGINE_KEYS | _LEVEL_KEYS:
                raise RuntimeError(
                    f'Failed to init environment - "Invalid setting: "{key}" = "{value}""'
                )
        if self._name in _TEST_ONLY and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError(
                'Failed to init environment - "[init] This level must only be used during evaluation. For training, '
                "use the *_train.lua version of the level. If you really want to use this level, add the setting "
                '"allowHoldOutLevels" = "true" explicitly"'
            )
        if self._name not in _OWN_LENGTH:
            self._seconds = float(config.get("episodeLengthSeconds", self._seconds))
        self._mix ^= config.get("allowHoldOutLevels") == "true"
        return dict(config)

    def reset(self, episode=-1, seed=None):
        if self._status == "closed":
            os.kill(os.getpid(), signal.SIGSEGV)
        if not isinstance(episode, int):
            raise TypeError(
                f"'{type(episode).__name__}' object cannot be interpreted as an integer"
            )
        if seed is None:
            seed = random.getrandbits(31)
        if not isinstance(seed, int):
            raise ValueError(f"'seed' must be int or None, was '{type(seed).__name__}'.")
        if episode >= 0:
            self._episode = episode
        if self._name in _MISSING_MAPS:
            print(f"Didn't find map '{_MISSING_MAPS[self._name]}'", file=sys.stderr)
            print(": No such file or directory", file=sys.stderr, flush=True)
            os._exit(1)
        if "stillborn" in FAULTS and self._resets:
            os._exit(3)
        if self._name in _NEEDS_IMAGES and "datasetPath" not in self._config:
            raise RuntimeError('Failed to start environment - "[init] Missing images"')
        self._rng = np.random.default_rng([seed % 2**31, self._mix, self._episode])
        if "random" in FAULTS:
            self._rng = np.random.default_rng()
        if self._name in _COMPILED:
            self._compile(f"{self._name}_{seed % 2**31}_{self._mix}")
        if self._name in _LANGUAGE:  # one of the level's plans, each compiled once in an instance
            plan = f"{self._name}_{self._rng.integers(4)}"
            if plan not in self._maps:
                self._compile(plan)
            self._maps.add(plan)
        self._resets += 1
        self._episode += 1
        self._status, self._steps, self._frame = "initialized", 0, 0
        self._texture = self._rng.integers(0, 256, (*self._size, 3), np.uint8)
        nouns, colours = ("hat", "cake", "balloon", "suitcase"), ("red", "blue", "lime", "white")
        self._instruction = ""
        if self._name.startswith("language_"):
            self._instruction = f"Pick up the {self._pick(colours)} {self._pick(nouns)}."
        self._spawn()
        return True

    def _pick(self, words):
        return words[int(self._rng.integers(len(words)))]

    def _spawn(self):
        # The engine's clock stands elsewhere at the first reset of an instance.
        offset = 0.01 if self._resets == 1 else 0.0
        self._x, self._y, self._yaw, self._room = -232.0 + offset, -64.0, 0.0, 1
        self._match_left = bool(self._rng.integers(2))

    def _compile(self, key):
        """A stand-in for the map compiler, with the real calls of the level cache."""
        path = os.path.join(self._folder, "map.pk3")
        if self._cache is not None and self._cache.fetch(key, path):
            return
        with open(path, "w") as file:
            file.write(key)
        if self._cache is not None:
            self._cache.write(key, path)

    def step(self, action, num_steps=1):
        if not isinstance(action, np.ndarray):
            raise TypeError(f"argument 1 must be numpy.ndarray, not {type(action).__name__}")
        if not isinstance(num_steps, int):
            raise TypeError("an integer is required")
        if not self.is_running():
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (len(_ACTIONS),):
            raise ValueError(f"action must have shape ({len(_ACTIONS)})")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        self._status, reward = "running", 0.0
        if self._steps == 4 * num_steps and "mortal" in FAULTS:
            os._exit(3)
        if self._steps == 4 * num_steps and "stumbles" in FAULTS:
            raise RuntimeError('Failed to advance - "[advance] attempt to index a nil value"')
        if self._steps == 4 * num_steps and "balks" in FAULTS:
            raise ValueError("no such action")
        for _ in range(num_steps):
            reward += self._advance(action)
            self._frame += 1
            if self._frame >= self._seconds * 60 and "endless" not in FAULTS:
                self._status = "terminated"
                break
        self._steps += num_steps  # also those after the end
        return reward

    def _advance(self, action):
        look, _, strafe, forward, *_ = action
        self._yaw = (self._yaw - float(look) * 0.1056 + 180) % 360 - 180
        heading = np.radians(self._yaw)
        pace = 2.6 if "slow" in FAULTS else 5.2
        self._x += pace * (np.cos(heading) * forward + np.sin(heading) * strafe)
        self._y += pace * (np.sin(heading) * forward - np.cos(heading) * strafe)
        if self._name != "rooms_select_nonmatching_object":
            return float(self._rng.random() < 0.02)
        if self._room == 1 and abs(self._x - 64) < 39 and abs(self._y + 64) < 39:
            self._x, self._y, self._yaw, self._room = 288.0, -64.0, 0.0, 2
            return 1.0
        if self._room == 2:
            for left, y in ((True, 64), (False, -192)):
                if abs(self._x - 600) < 29 and abs(self._y - y) < 29:
                    matches = left == self._match_left
                    self._spawn()
                    return -10.0 if matches else 10.0
        return 0.0

    def observations(self):
        if not self.is_running():
            raise RuntimeError("Environment in wrong status for call to observations()")
        shown = {}
        for name in self._wanted:
            shown[name] = {
                "INSTR": lambda: self._instruction,
                "DEBUG.POS.TRANS": lambda: np.array([self._x, self._y, 24.0]),
                "DEBUG.POS.ROT": lambda: np.array([0.0, self._yaw, 0.0]),
                "RGBD_INTERLEAVED": lambda: np.dstack([self._draw(), self._draw().max(2)]),
            }.get(name, self._draw)()
        return shown

    def _draw(self):
        pose = zlib.crc32(np.array([self._x, self._y, self._yaw, self._room]).tobytes())
        frame = np.roll(self._texture, (pose % 97, pose % 89), (0, 1))
        return frame[::2].copy() if "small" in FAULTS else frame

    def is_running(self):
        return self._status in ("initialized", "running")

    def num_steps(self):
        return self._steps

    def action_spec(self):
        self._crash_when_closed()
        names = _ACTIONS[::-1] if "reversed" in FAULTS else _ACTIONS
        return [{"name": n, "min": -m if m == 512 or "_" in n else 0, "max": m} for n, m in names]

    def observation_spec(self):
        self._crash_when_closed()
        return [{"name": name, "shape": (), "dtype": object} for name in sorted(_OBSERVATIONS)]

    def _crash_when_closed(self):
        if self._status == "closed":
            os.kill(os.getpid(), signal.SIGSEGV)

    def events(self):
        if self._status in ("uninitialized", "closed"):
            raise RuntimeError("Environment in wrong status for call to events()")
        return []

    def close(self):
        global _live
        if self._status == "closed":
            return False
        self._status = "closed"
        _live -= 1
        if self._folder_owned:
            for name in os.listdir(self._folder):
                os.unlink(os.path.join(self._folder, name))
            os.rmdir(self._folder)
        return True
