"""DeepMind Lab's levels as one `gymnasium.vector.VectorEnv`: every world in a process of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import action_names
from envs.dmlab.instruction import hash_words, instruction_space
from envs.dmlab.levels import ROOMS_SELECT, find_level
from envs.dmlab.process import LabProcess
from envs.dmlab.rooms_select import EPISODE_METRICS, TrialCounts
from envs.dmlab.settings import FRAMES_PER_SECOND, LabSettings
from envs.dmlab.world import Seen

_SEEDS = 2**31 - 1  # what scalable_agent draws episode seeds from


class LabVectorEnv(VectorEnv):
    """N worlds of a level on the real engine; a world that has ended begins anew in the next step.

    Observation: Dict(frame uint8 [H, W, 3], last_reward float32 [1], last_action Discrete) as in the embedded room
    task, and in language levels instruction int64 [words], its words hashed to 1 ... vocabulary - 1 (0: no word);
    depth uint8 [H, W, 1] if asked for.
    `terminated` where the engine ends the episode, by its clock or otherwise; the observation is then the last that
    it showed. `truncated` only where `stagger` cuts a first episode short.

    Info: position (x, y in DMLab units) and yaw (degrees), NaN where a level does not give them; instruction, the
    text. In rooms_select_nonmatching_object also room, trial and the counts teleports, trials, correct and wrong, read
    off the rewards. match_side, example_side and the objects are not known here: the engine does not tell them.

    World i of seed s is seeded with s + i, plays the same whatever the number of worlds, and stays exact across
    processes. The constructor opens the first world, so that what is wrong shows at once; the others open at the first
    reset. An error of the engine leaves the environment usable: reset it.

    Args:
        level: one of `envs.dmlab.levels.LEVEL_NAMES`.
        num_envs: worlds, a process each.
        render_mode: "rgb_array": `render()` gives the frames that were observed last.
        settings: those of `LabSettings`.

    Raises:
        MissingDependencyError: where `deepmind_lab` cannot be imported.
        ValueError, TypeError: for bad settings.
        RuntimeError: for a level that this build of deepmind_lab cannot load.
    """

    def __init__(
        self, level: str, num_envs: int = 1, *, render_mode: str | None = None, **settings: Any
    ):
        self._worlds: list[LabProcess | None] = []
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: expected 1 or more")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"unknown render_mode {render_mode!r}: choose 'rgb_array' or None")
        self.settings = given = LabSettings.from_kwargs(level, **settings)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.action_names = list(action_names(given.actions))
        scores = find_level(level)
        self._counts = TrialCounts(num_envs) if level == ROOMS_SELECT else None
        self.metadata: dict[str, Any] = {
            "autoreset_mode": AutoresetMode.NEXT_STEP,
            "render_modes": ["rgb_array"],
            "render_fps": FRAMES_PER_SECOND / given.action_repeat,
            "action_repeat": given.action_repeat,
            "score_range": (scores.random, scores.human),
            "engine": "deepmind_lab",
            "settings": given.as_dict(),
            "episode_metrics": EPISODE_METRICS if self._counts else (),
        }
        self.single_action_space = spaces.Discrete(len(self.action_names))
        parts: dict[str, Any] = {
            "frame": spaces.Box(0, 255, (given.height, given.width, 3), np.uint8),
            "last_reward": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "last_action": spaces.Discrete(len(self.action_names)),
        }
        if given.depth:
            parts["depth"] = spaces.Box(0, 255, (given.height, given.width, 1), np.uint8)
        if given.with_instruction:
            parts["instruction"] = instruction_space(given.words, given.vocabulary)
        self.single_observation_space = parts["frame"] if given.frame_only else spaces.Dict(parts)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._rng: list[np.random.Generator] = []
        self._episode = np.zeros(num_envs, np.int64)
        self._left = np.zeros(num_envs, np.int64)  # steps until `stagger` cuts; below 0 never
        self._ended = np.zeros(num_envs, bool)
        self._seen: list[Seen] = []
        self._ready = False
        self._worlds = [None] * num_envs
        self._open([0])

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every world; with seed s, world i gets s + i."""
        if self.closed:
            raise RuntimeError("this environment is closed: make a new one")
        n = self.num_envs
        self._seed(seed)
        self._ready = False
        self._drop([i for i, world in enumerate(self._worlds) if world and world.pending])
        self._open([i for i in range(n) if self._worlds[i] is None])
        self._seen = self._ask([self._begin(i) for i in range(n)])
        steps = self.settings.steps
        self._left[:] = -1
        if self.settings.stagger:
            self._left[:] = steps - np.arange(n) * steps // n
        self._ended[:] = False
        self._ready = True
        return self._observe(np.zeros(n), np.zeros(n, np.int64)), self._info()

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """One action in every world, repeated `action_repeat` frames; where an episode has ended the next begins.

        Raises:
            ValueError: for actions of another shape, type or range, or before `reset`.
            RuntimeError: for an error of the engine, which names level and cause.
        """
        actions = self._checked(actions)
        n, fresh = self.num_envs, self._ended.copy()
        calls = [self._begin(i) if fresh[i] else ("step", int(actions[i])) for i in range(n)]
        self._ready = False  # until all is well again
        replies = self._ask(calls)
        rewards, terminated = np.zeros(n), np.zeros(n, bool)
        for i, reply in enumerate(replies):
            if fresh[i]:
                self._seen[i] = reply
                continue
            self._seen[i], rewards[i], terminated[i] = reply
            if self._counts:
                self._counts.add(i, rewards[i])
        self._left -= self._left > 0
        truncated = (self._left == 0) & ~terminated & ~fresh
        self._left[(self._left == 0) | terminated] = -1
        self._ended = terminated | truncated
        self._ready = True
        observation = self._observe(rewards, np.where(fresh, 0, actions))
        return observation, rewards, terminated, truncated, self._info()

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The frames that were observed last, uint8 [H, W, 3] each; None without render_mode."""
        if self.render_mode is None:
            return None
        return tuple(seen.frame[..., :3].copy() for seen in self._seen)

    def close_extras(self, **kwargs: Any) -> None:
        self._drop(list(range(len(self._worlds))))

    def _seed(self, seed: int | list[int | None] | None) -> None:
        """Seeds the worlds; None leaves a world's random numbers as they are."""
        n = self.num_envs
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + i for i in range(n)]
        seeds = [None] * n if seed is None else list(seed)
        if len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} worlds: give one seed or {n}")
        for s in seeds:
            if s is not None and s < 0:
                raise ValueError(f"seed {s}: expected 0 or more")
        self._rng = self._rng or [np.random.default_rng() for _ in range(n)]
        for i, s in enumerate(seeds):
            if s is not None:
                self._rng[i] = np.random.default_rng(int(s))
                self._episode[i] = 0

    def _open(self, which: list[int]) -> None:
        """Starts the processes of those worlds, all at once."""
        for i in which:
            self._worlds[i] = LabProcess(self.settings)
        self._collect(which)

    def _begin(self, i: int) -> tuple[str, int, int]:
        """The call that begins world i's next episode."""
        seed = int(self._rng[i].integers(self.settings.episode_seeds or _SEEDS))
        episode = int(self._episode[i])
        self._episode[i] += 1
        if self._counts:
            self._counts.begin(i)
        return "reset", episode, seed

    def _ask(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        for world, call in zip(self._worlds, calls, strict=True):
            assert world is not None
            world.ask(*call)
        return self._collect(list(range(self.num_envs)))

    def _collect(self, which: list[int]) -> list[Any]:
        """The answers of those worlds; one that fails is closed, and the first failure raised when all have come."""
        answers: list[Any] = []
        failure: Exception | None = None
        for i in which:
            world = self._worlds[i]
            assert world is not None
            try:
                answers.append(world.answer())
            except Exception as error:
                failure = failure or error
                self._drop([i])
        if failure is not None:
            raise failure
        return answers

    def _drop(self, which: list[int]) -> None:
        """Ends the processes of those worlds; the next reset starts others."""
        for i in which:
            world, self._worlds[i] = self._worlds[i], None
            if world is not None:
                world.close()

    def _checked(self, actions: Any) -> np.ndarray:
        if self.closed:
            raise RuntimeError("this environment is closed: make a new one")
        if not self._ready:
            raise ValueError("step before reset: call reset() first")
        given, n = np.asarray(actions), len(self.action_names)
        if given.shape != (self.num_envs,) or given.dtype.kind not in "iu":
            raise ValueError(
                f"actions of shape {given.shape} and type {given.dtype}: "
                f"expected {self.num_envs} whole numbers from 0 to {n - 1}"
            )
        if given.min() < 0 or given.max() >= n:
            raise ValueError(
                f"action {given[(given < 0) | (given >= n)][0]}: expected 0 to {n - 1}"
            )
        return given

    def _observe(self, rewards: np.ndarray, actions: np.ndarray) -> Any:
        frames = np.stack([seen.frame[..., :3] for seen in self._seen])
        if self.settings.frame_only:
            return frames
        observation = {
            "frame": frames,
            "last_reward": rewards.astype(np.float32)[:, None],
            "last_action": actions.astype(np.int64),
        }
        if self.settings.depth:
            observation["depth"] = np.stack([seen.frame[..., 3:] for seen in self._seen])
        if self.settings.with_instruction:
            words, vocabulary = self.settings.words, self.settings.vocabulary
            texts = [seen.instruction for seen in self._seen]
            observation["instruction"] = np.stack([hash_words(t, words, vocabulary) for t in texts])
        return observation

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "position": np.stack([seen.position for seen in self._seen]),
            "yaw": np.array([seen.yaw for seen in self._seen]),
            "instruction": np.array([seen.instruction for seen in self._seen], object),
        }
        if self._counts:
            info |= self._counts.info()
        present = np.ones(self.num_envs, bool)
        return info | {f"_{key}": present for key in info}
