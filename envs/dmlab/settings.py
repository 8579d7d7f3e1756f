"""What can be set in a level of the real DeepMind Lab: plain values, checked before any engine starts.

A world's process imports this, so it imports nothing but numpy: the Python that has the engine may have no more.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.actions import action_vectors
from envs.dmlab.cache import default_folder
from envs.dmlab.levels import FIXED_LENGTH, LEVEL_NAMES, TEST_ONLY, find_level

FRAMES_PER_SECOND = 60
# Of an instruction: sample-factory's length, IMPALA's hash buckets (arXiv 1802.01561, appendix).
WORDS, VOCABULARY = 16, 1000
HOLDOUT_MIXER_SEED = 0x600D5EED  # of scalable_agent's test runs
_OURS = {"width", "height", "fps", "levelName", "mixerSeed", "allowHoldOutLevels", "datasetPath"}
_OURS |= {"episodeLengthSeconds"}
_CODE = {"levelDirectory", "appendCommand"}  # a run's config.yaml must not choose what code runs


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (_is_int, "a whole number"),
    "float": (_is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "dict[str, Any]": (lambda value: isinstance(value, dict), "settings of the engine by name"),
}


@dataclass(frozen=True)
class LabSettings:
    """Settings of a level on the deepmind_lab engine; the defaults are IMPALA's.

    height, width: frame size in pixels, multiples of 4.
    action_repeat: frames an action lasts.
    actions: "impala" (9) or "extended" (15).
    seconds: episode length in game time; None leaves the level's own, and five levels have no other.
    stagger: cut the first episodes short (truncated), each world's by another share.
    holdout: the maps and objects that are held out from training, under the mixer seed of IMPALA's tests; None is
        true in the two levels that are for tests only, where the engine allows nothing else, and false elsewhere.
    mixer_seed: another mixer seed, 0 to 2**32 - 1: under another one, equal seeds give other episodes.
    episode_seeds: draw episodes from this many seeds only, so that compiled maps come back from the cache.
    depth: also observe the engine's depth, "depth" uint8 [height, width, 1].
    frame_only: observe the frame alone instead of a dict with last reward and last action.
    instruction: observe the instruction as hashed words; None does so in the language levels.
    words, vocabulary: its length and the number of hash buckets.
    level_cache: folder of compiled maps; "auto" is ct_rl/dmlab in the user's cache folder, None or "none" no cache.
    dataset_path: folder of the images that two psychlab levels need (Brady et al.).
    renderer: "software" or "hardware".
    restarts: deaths in a row, with fewer than 100 steps between them, after which a world is still started anew.
    config: further settings of engine and level, by their own names.
    """

    level: str
    height: int = 72
    width: int = 96
    action_repeat: int = 4
    actions: str = "impala"
    seconds: float | None = None
    stagger: bool = False
    holdout: bool | None = None
    mixer_seed: int | None = None
    episode_seeds: int | None = None
    depth: bool = False
    frame_only: bool = False
    instruction: bool | None = None
    words: int = WORDS
    vocabulary: int = VOCABULARY
    level_cache: str | None = "auto"
    dataset_path: str | None = None
    renderer: str = "software"
    restarts: int = 3
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.level not in LEVEL_NAMES:
            near = difflib.get_close_matches(self.level, LEVEL_NAMES, 3, 0.5)
            raise ValueError(
                f"unknown level {self.level!r}: did you mean {', '.join(near)}?"
                if near
                else f"unknown level {self.level!r}: choose one of {', '.join(LEVEL_NAMES)}"
            )
        for item in dataclasses.fields(self):
            kind, *none = str(item.type).split(" | ")
            value, (fits, wanted) = getattr(self, item.name), _TYPES[kind]
            if not fits(value) and not (none and value is None):
                raise ValueError(f"{item.name}={value!r}: expected {wanted}")
        action_vectors(self.actions)
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < 4 or size % 4:
                raise ValueError(f"{name}={size!r} is not a positive multiple of 4, as DMLab needs")
        leasts = {
            "action_repeat": 1,
            "words": 1,
            "vocabulary": 2,
            "episode_seeds": 1,
            "restarts": 0,
        }
        for name, least in leasts.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}={value!r}: expected {least} or more")
        if self.frame_only and (self.depth or self.instruction):
            raise ValueError("frame_only=True: expected neither depth nor instruction beside it")
        for name, default in (("words", WORDS), ("vocabulary", VOCABULARY)):
            if getattr(self, name) != default and not self.with_instruction:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is of an instruction, which is not observed here: "
                    "give instruction=True too"
                )
        if self.seconds is not None and self.level in FIXED_LENGTH:
            raise ValueError(
                f"seconds={self.seconds!r} does nothing in {self.level}, whose clock is always "
                f"{find_level(self.level).seconds} s: leave it out"
            )
        if self.seconds is not None and not self.frames >= self.action_repeat:
            raise ValueError(
                f"seconds={self.seconds!r} is shorter than a step of {self.action_repeat} frames"
            )
        for_tests = self.level in TEST_ONLY
        if for_tests and self.holdout is False:
            raise ValueError(
                f"holdout=False: the engine opens {self.level} for tests only: leave it out, or "
                f"train on {self.level.removesuffix('_test')}_train"
            )
        object.__setattr__(self, "holdout", for_tests if self.holdout is None else self.holdout)
        if self.mixer_seed is not None and not 0 <= self.mixer_seed < 2**32:
            raise ValueError(f"mixer_seed={self.mixer_seed!r}: expected 0 to 2**32 - 1")
        if self.renderer not in ("software", "hardware"):
            raise ValueError(f"unknown renderer {self.renderer!r}: choose software or hardware")
        if self.dataset_path is not None and not Path(self.dataset_path).is_dir():
            raise ValueError(f"dataset_path={self.dataset_path!r} is no folder")
        for key in self.config:
            if key in _OURS:
                raise ValueError(f"config has {key!r}, which other settings decide: leave it out")
            if key in _CODE:
                raise ValueError(f"config has {key!r}, which would run other code: leave it out")

    @classmethod
    def from_kwargs(cls, level: str, **settings: Any) -> LabSettings:
        """Settings from keywords; raises TypeError that names the nearest setting to a wrong one."""
        known = setting_names()
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                raise TypeError(f"unknown setting {name!r} of the deepmind_lab engine: {hint}")
        return cls(level, **settings)

    @property
    def frames(self) -> int:
        """The longest episode in frames; some levels may end earlier."""
        seconds = self.seconds if self.seconds is not None else find_level(self.level).seconds
        return round(seconds * FRAMES_PER_SECOND)

    @property
    def steps(self) -> int:
        """The longest episode in agent steps."""
        return -(-self.frames // self.action_repeat)

    @property
    def with_instruction(self) -> bool:
        """Whether the instruction is part of the observation."""
        asked = self.level.startswith("language_") if self.instruction is None else self.instruction
        return asked and not self.frame_only

    @property
    def cache_folder(self) -> Path | None:
        """Where compiled maps are kept, if anywhere."""
        if self.level_cache in (None, "none", ""):
            return None
        return default_folder() if self.level_cache == "auto" else Path(self.level_cache)

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name, in plain values that a YAML file can hold."""
        return dataclasses.asdict(self)

    def engine_config(self) -> dict[str, str]:
        """The configuration that `deepmind_lab.Lab` takes: strings only."""
        config = {key: _as_text(value) for key, value in self.config.items()}
        config |= {"width": str(self.width), "height": str(self.height)}
        if self.seconds is not None:
            config["episodeLengthSeconds"] = _as_text(self.seconds)
        if self.holdout:
            config["allowHoldOutLevels"] = "true"
        if self.holdout or self.mixer_seed is not None:
            seed = HOLDOUT_MIXER_SEED if self.mixer_seed is None else self.mixer_seed
            config["mixerSeed"] = str(seed)
        if self.dataset_path is not None:
            config["datasetPath"] = str(Path(self.dataset_path).absolute())
        return config


def setting_names() -> list[str]:
    """The settings of a level, without its name."""
    return [item.name for item in dataclasses.fields(LabSettings) if item.name != "level"]


def _as_text(value: Any) -> str:
    """A setting as the engine reads it: Lua's words for truth, numbers without a needless point."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
