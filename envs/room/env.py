"""The room task as one `gymnasium.vector.VectorEnv`: N worlds in one process, one render a step."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import action_names, action_vectors
from envs.errors import MissingDependencyError
from envs.partial_reset import reset_mask
from envs.room.buffers import choose_renderer
from envs.room.dynamics import RoomWorlds, degrees
from envs.room.layout import Layout
from envs.room.settings import FRAMES_PER_SECOND, RoomSettings
from envs.seeding import world_seeds

SIDES = np.array(["left", "right"])
EPISODE_METRICS = ("teleports", "trials", "correct", "wrong")


def room_metadata(settings: RoomSettings) -> dict[str, Any]:
    """What the room environment says of itself; `map_outlines` are the rooms' corners, for maps from above."""
    layout = Layout(settings.room_scale)
    return {
        "settings": settings.as_dict(),
        "render_modes": ["rgb_array"],
        "render_fps": FRAMES_PER_SECOND / settings.action_repeat,
        "action_repeat": settings.action_repeat,
        "episode_metrics": EPISODE_METRICS,
        "score_range": (0.312, 65.9),  # random and human, as published for the level
        "engine": "embedded",
        "map_outlines": [layout.outline(room) for room in (0, 1)],
    }


def room_spaces(settings: RoomSettings) -> tuple[gym.Space, gym.spaces.Discrete]:
    """Observation and action space of one world."""
    n_actions = len(action_vectors(settings.actions))
    frame = gym.spaces.Box(0, 255, (settings.height, settings.width, 3), np.uint8)
    if settings.frame_only:
        return frame, gym.spaces.Discrete(n_actions)
    parts: dict[str, gym.Space] = {
        "frame": frame,
        "last_reward": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        "last_action": gym.spaces.Discrete(n_actions),
    }
    if settings.depth:
        parts["depth"] = gym.spaces.Box(0, 255, (settings.height, settings.width, 1), np.uint8)
    return gym.spaces.Dict(parts), gym.spaces.Discrete(n_actions)


class RoomVectorEnv(VectorEnv):
    """N worlds of rooms_select_nonmatching_object: remember the object of room 1, take the OTHER one in room 2.

    Observations are fresh arrays: frame uint8 [N, H, W, 3], last_reward float32 [N, 1] (raw), last_action int64
    [N], and depth uint8 [N, H, W, 1] if asked for. Infos are arrays over the worlds: room (1 or 2), trial (from 0),
    match_side and example_side ("left", "right"), match and other (objects), position (x, y in DMLab units), yaw
    (degrees, -180 to 180, counter-clockwise, 0 along +x), and the episode's counts. The end by the
    time limit is `terminated`, as in published DMLab code.

    Args:
        num_envs: N.
        render_mode: "rgb_array" for `render()`.
        autoreset_mode: one of gymnasium's.
        renderer: "cpu", "gpu" (EGL), or "auto": the GPU where there is one and it draws. On each, frames are exact;
            between them textures are sampled a little differently.
        render_height, render_width, render_view: of `render()`'s pictures; view "agent" or "top".
        settings: those of `RoomSettings`.

    Raises:
        ValueError: for bad settings, actions of wrong shape, type or range, and a step before a reset.
        TypeError: for a setting that does not exist.
        MissingDependencyError: where a library of the renderer is missing.
    """

    _scene: Any = None  # also where the constructor raised

    def __init__(
        self,
        num_envs: int = 1,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        renderer: str = "auto",
        render_height: int = 480,
        render_width: int = 640,
        render_view: str = "agent",
        **settings: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: expected 1 or more")
        for name, value, known in (
            ("render_mode", render_mode, ("rgb_array", None)),
            ("render_view", render_view, ("agent", "top")),
            ("autoreset_mode", autoreset_mode, (*AutoresetMode, *(m.value for m in AutoresetMode))),
        ):
            if value not in known:
                choices = ", ".join(str(getattr(item, "value", item)) for item in known[:3])
                raise ValueError(f"unknown {name} {value!r}: choose one of {choices}")
        for name, size in (("render_height", render_height), ("render_width", render_width)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(f"{name}={size!r}: expected 1 or more pixels, a whole number")
        self.settings = RoomSettings.from_kwargs(**settings)
        # Opened here, so that a missing library is an error of the constructor.
        self.renderer = choose_renderer(renderer)
        self._may_fall_back = renderer == "auto" and self.renderer == "gpu"
        self.num_envs, self.render_mode = num_envs, render_mode
        self.render_size = (render_height, render_width)
        self.render_view = render_view
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = room_metadata(self.settings) | {"autoreset_mode": self.autoreset_mode}
        self.metadata["settings"]["renderer"] = self.renderer
        self.single_observation_space, self.single_action_space = room_spaces(self.settings)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.action_names = list(action_names(self.settings.actions))
        self.worlds = RoomWorlds(num_envs, self.settings)
        self._begun = np.zeros(num_envs, bool)
        self._over = np.zeros(num_envs, bool)
        self._last_reward = np.zeros((num_envs, 1), np.float32)
        self._last_action = np.zeros(num_envs, np.int64)

    @property
    def scene(self) -> Any:
        """The picture side, made at first use in the process that uses it."""
        if self.closed:
            raise RuntimeError("this environment is closed: make a new one")
        if self._scene is None:
            try:
                self._scene = self._open_scene()
            except (MissingDependencyError, RuntimeError):
                if not self._may_fall_back:
                    raise
                self.renderer = self.metadata["settings"]["renderer"] = "cpu"
                self._scene = self._open_scene()
        return self._scene

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_scene": None}  # a copy draws for itself

    def _open_scene(self) -> Any:
        from envs.room.scene import RoomScene

        settings = self.settings
        return RoomScene(
            self.worlds, settings.height, settings.width, self.renderer, settings.depth
        )

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every world, or in those of options["reset_mask"] (bool [N]).

        An int gives world i the i-th of `envs.seeding.world_seeds`, whatever N: a single environment that is reset with
        that seed plays as world 0. A list gives every world its own seed as it stands.
        """
        n = self.num_envs
        seeds = world_seeds(int(seed), n) if isinstance(seed, (int, np.integer)) else seed
        if seeds is not None and len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} worlds: give one int or one seed a world")
        mask = reset_mask(options, n)
        for i in map(int, np.flatnonzero(mask)):
            if seeds is not None and seeds[i] is not None:
                self.worlds.seed(i, seeds[i])
        self._begin(mask)
        if self.settings.stagger and mask.all():
            self.worlds.stagger()
        return self._observe(), self._infos()

    def _begin(self, mask: np.ndarray) -> None:
        for i in map(int, np.flatnonzero(mask)):
            self.worlds.begin_episode(i)
        self._begun |= mask
        self._over &= ~mask
        self._last_reward[mask] = 0
        self._last_action[mask] = 0

    def step(
        self, actions: np.ndarray
    ) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One action in every world: int [N] -> observation, reward float64 [N], terminated, truncated, info."""
        if not self._begun.all():
            raise ValueError("step before reset: call reset() first")
        actions = self._checked(actions)
        over = self._over
        if over.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise RuntimeError(
                "step after an episode's end: reset the worlds that ended with options={'reset_mask': ...}"
            )
        active = ~over
        rewards, ended = self.worlds.step(actions, active)
        self._last_reward[:, 0] = rewards
        self._last_action[:] = actions
        if over.any():
            self._begin(over.copy())
        final: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            if ended.any():
                final = self._finals(ended)
                self._begin(ended)
        else:
            self._over = ended.copy()
        truncated = np.zeros(self.num_envs, bool)
        return self._observe(), rewards, ended, truncated, self._infos() | final

    def _checked(self, actions: Any) -> np.ndarray:
        array, n = np.asarray(actions), len(self.action_names)
        if array.shape != (self.num_envs,) or array.dtype.kind not in "iu":
            raise ValueError(
                f"actions of shape {array.shape} and type {array.dtype}: "
                f"expected {self.num_envs} whole numbers from 0 to {n - 1}"
            )
        if array.min() < 0 or array.max() >= n:
            raise ValueError(
                f"action {array[(array < 0) | (array >= n)][0]}: expected 0 to {n - 1}"
            )
        return array

    def _observe(self) -> Any:
        frames = self.scene.frames()
        if self.settings.frame_only:
            return frames
        observation = {
            "frame": frames,
            "last_reward": self._last_reward.copy(),
            "last_action": self._last_action.copy(),
        }
        return observation | ({"depth": self.scene.depths()} if self.settings.depth else {})

    def _infos(self) -> dict[str, Any]:
        worlds = self.worlds
        infos: dict[str, Any] = {
            "room": worlds.room + 1,
            "trial": worlds.trials.copy(),
            "match_side": SIDES[worlds.match_side],
            "example_side": SIDES[worlds.example_side],
            "match": worlds.match.copy(),
            "other": worlds.other.copy(),
            "position": worlds.position.T.copy(),
            "yaw": degrees(worlds.yaw),
            "teleports": worlds.teleports.copy(),
            "trials": worlds.trials.copy(),
            "correct": worlds.correct.copy(),
            "wrong": worlds.wrong.copy(),
        }
        present = np.ones(self.num_envs, bool)
        return infos | {f"_{key}": present for key in infos}

    def _finals(self, ended: np.ndarray) -> dict[str, Any]:
        """What SAME_STEP mode must still tell of the episodes that ended."""
        observations, infos = self._observe(), self._infos()
        finals = np.full(self.num_envs, None, object)
        for i in map(int, np.flatnonzero(ended)):
            finals[i] = _row(observations, i)
        return {
            "final_obs": finals,
            "_final_obs": ended.copy(),
            "final_info": {k: ended.copy() if k.startswith("_") else v for k, v in infos.items()},
            "_final_info": ended.copy(),
        }

    def render(self) -> tuple[Any, ...] | None:
        """Every world's picture, uint8 [render_height, render_width, 3] each; None without render_mode."""
        if self.render_mode is None:
            return None
        return tuple(self.picture(i) for i in range(self.num_envs))

    def picture(self, i: int = 0, **options: Any) -> np.ndarray:
        """One world's picture; options `size` (height, width) and `view` ("agent" or "top")."""
        height, width = options.get("size", self.render_size)
        return self.scene.picture(i, height, width, options.get("view", self.render_view))

    def close_extras(self, **kwargs: Any) -> None:
        if self._scene is not None:
            self._scene.close()
            self._scene = None


def _row(observation: Any, i: int) -> Any:
    if isinstance(observation, dict):
        return {key: value[i] for key, value in observation.items()}
    return observation[i]
