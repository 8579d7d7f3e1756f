"""DeepMind Lab's levels as one `gymnasium.vector.VectorEnv`: every world in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs.actions import action_names
from envs.dmlab.instruction import hash_words, instruction_space
from envs.dmlab.levels import ROOMS_SELECT, find_level
from envs.dmlab.pool import LOST, WorldPool
from envs.dmlab.rooms_select import EPISODE_METRICS, TrialCounts
from envs.dmlab.settings import FRAMES_PER_SECOND, HOLDOUT_MIXER_SEED, LabSettings
from envs.dmlab.world import Seen
from envs.partial_reset import reset_mask
from envs.seeding import world_seeds

_SEEDS = 2**31 - 1  # what scalable_agent draws episode seeds from


class LabVectorEnv(VectorEnv):
    """N worlds of a level on the real engine; a world that has ended begins anew in the next step.

    Observation: Dict(frame uint8 [H, W, 3], last_reward float32 [1], last_action Discrete) as in the embedded room
    task, and in language levels instruction int64 [words], its words hashed to 1 ... vocabulary - 1 (0: no word);
    depth uint8 [H, W, 1] if asked for: the byte of the engine's depth buffer, which is not linear in distance.
    `terminated` where the engine ends the episode, by its clock or otherwise; the observation is then the last that
    it showed. `truncated` where `stagger` cuts a first episode short, and where a world died.

    A world dies when its process ends or hangs, or when engine or level raise an error in play. It is started anew
    with other seeds; its running episode is `truncated` in that step, whose observation is the last that was seen and
    whose reward is 0. One that dies at the start of an episode begins another in the same step. After
    `settings.restarts` deaths in a row, with fewer than `pool.PROGRESS` steps between, the error is raised.

    Info: position (x, y in DMLab units) and yaw (degrees, -180 to 180, counter-clockwise, 0 along +x), NaN where a
    level does not give them; instruction, the text; lost, int64: how often that world died in this call. In
    rooms_select_nonmatching_object also room, trial and the counts teleports, trials, correct and wrong, read off the
    rewards. match_side, example_side and the objects are not known here: the engine does not tell them.

    World i of seed s is seeded with `envs.seeding.world_seeds(s, num_envs)[i]`, in its k-th life after a death with
    that of incarnation k; it plays the same whatever the number of worlds, and stays exact across processes. The
    constructor opens the first world, so that what is wrong shows at once; the others open at the first reset. An error
    of the engine leaves the environment usable: reset it.

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

    _pool: WorldPool | None = None

    def __init__(
        self, level: str, num_envs: int = 1, *, render_mode: str | None = None, **settings: Any
    ):
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
            "notes": _notes(given, settings),
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
        # A world's seed is that of (seed, index) in its life, or drawn afresh where nobody gave one.
        self._origin: list[tuple[int, int] | None] = [None] * num_envs
        self._life = np.zeros(num_envs, np.int64)
        self._rng: list[np.random.Generator] = []
        self._episode = np.zeros(num_envs, np.int64)
        self._left = np.zeros(num_envs, np.int64)  # steps until `stagger` cuts; below 0 never
        self._ended = np.zeros(num_envs, bool)
        self._seen: list[Seen] = []
        self._ready = False
        self._pool = WorldPool(given, num_envs)
        self.pool.open([0])

    @property
    def pool(self) -> WorldPool:
        """The processes of the worlds."""
        assert self._pool is not None, "the constructor has not come so far"
        return self._pool

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begins an episode in every world; with seed s, world i gets `world_seeds(s, num_envs)[i]`."""
        if self.closed:
            raise RuntimeError("this environment is closed: make a new one")
        n = self.num_envs
        if not reset_mask(options, n).all():
            raise ValueError(
                "reset_mask leaves out worlds, and those of DeepMind Lab begin together: leave it out; "
                "a world that has ended begins anew in the next step"
            )
        self._seed(seed)
        self._ready = False
        self.pool.open()
        before = self.pool.deaths.copy()
        begun = self._begin_episodes(range(n))
        self._seen = [begun[i] for i in range(n)]
        steps = self.settings.steps
        self._left[:] = -1
        if self.settings.stagger:
            self._left[:] = steps - np.arange(n) * steps // n
        self._ended[:] = False
        self._ready = True
        return self._observe(np.zeros(n), np.zeros(n, np.int64)), self._info(before)

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        """One action in every world, repeated `action_repeat` frames; where an episode has ended the next begins.

        Raises:
            ValueError: for actions of another shape, type or range, or before `reset`.
            RuntimeError: for a world that dies too often; it names level and cause.
        """
        actions = self._checked(actions)
        n, fresh, before = self.num_envs, self._ended.copy(), self.pool.deaths.copy()
        calls = {i: self._begin(i) if fresh[i] else ("step", int(actions[i])) for i in range(n)}
        self._ready = False  # until all is well again
        replies = self.pool.ask(calls)
        rewards, terminated, lost = np.zeros(n), np.zeros(n, bool), np.zeros(n, bool)
        for i, reply in replies.items():
            if reply is LOST:
                lost[i] = True
                self._seed_anew(i)
            elif fresh[i]:
                self._seen[i] = reply
            else:
                self._seen[i], rewards[i], terminated[i] = reply
                if self._counts:
                    self._counts.add(i, rewards[i])
        for i, seen in self._begin_episodes(np.flatnonzero(lost & fresh)).items():
            self._seen[i] = seen
        self._left -= self._left > 0
        truncated = ((self._left == 0) & ~terminated | lost) & ~fresh
        self._left[truncated | terminated] = -1
        self._ended = terminated | truncated
        self._ready = True
        observation = self._observe(rewards, np.where(fresh, 0, actions))
        return observation, rewards, terminated, truncated, self._info(before)

    def render(self) -> tuple[Any, ...] | None:
        """The frames that were observed last, uint8 [H, W, 3] each; None without render_mode."""
        if self.render_mode is None:
            return None
        return tuple(seen.frame[..., :3].copy() for seen in self._seen)

    def close_extras(self, **kwargs: Any) -> None:
        if self._pool is not None:
            self._pool.drop()

    @property
    def lost_worlds(self) -> int:
        """How often a world of this environment died."""
        return int(self.pool.deaths.sum())

    def _seed(self, seed: int | list[int | None] | None) -> None:
        """Seeds the worlds; None leaves a world's random numbers as they are."""
        n = self.num_envs
        if isinstance(seed, (int, np.integer)):
            origins: list[tuple[int, int] | None] = [(int(seed), i) for i in range(n)]
            seeds: list[int | None] = list(world_seeds(int(seed), n))
        else:
            seeds = [None] * n if seed is None else list(seed)
            origins = [None if s is None else (int(s), 0) for s in seeds]
        if len(seeds) != n:
            raise ValueError(f"{len(seeds)} seeds for {n} worlds: give one seed or {n}")
        for s in seeds:
            if s is not None and s < 0:
                raise ValueError(f"seed={s}: expected 0 or more")
        self._rng = self._rng or [np.random.default_rng() for _ in range(n)]
        for i, s in enumerate(seeds):
            if s is not None:
                self._rng[i] = np.random.default_rng(int(s))
                self._origin[i], self._life[i], self._episode[i] = origins[i], 0, 0

    def _seed_anew(self, i: int) -> None:
        """World i begins another life, in which it plays nothing that it played before."""
        self._life[i] += 1
        self._episode[i] = 0
        seed = None
        if (origin := self._origin[i]) is not None:
            seed = world_seeds(origin[0], origin[1] + 1, incarnation=int(self._life[i]))[origin[1]]
        self._rng[i] = np.random.default_rng(seed)

    def _begin(self, i: int) -> tuple[str, int, int]:
        """The call that begins world i's next episode."""
        seed = int(self._rng[i].integers(self.settings.episode_seeds or _SEEDS))
        episode = int(self._episode[i])
        self._episode[i] += 1
        if self._counts:
            self._counts.begin(i)
        return "reset", episode, seed

    def _begin_episodes(self, which: Iterable[int]) -> dict[int, Seen]:
        """What those worlds show when an episode has begun; one that dies of it begins another in its next life."""
        left = [int(i) for i in which]
        seen: dict[int, Any] = {}
        while left:
            seen |= self.pool.ask({i: self._begin(i) for i in left})
            left = [i for i in left if seen[i] is LOST]
            for i in left:
                self._seed_anew(i)
        return seen

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

    def _info(self, deaths_before: np.ndarray) -> dict[str, Any]:
        info: dict[str, Any] = {
            "position": np.stack([seen.position for seen in self._seen]),
            "yaw": np.array([seen.yaw for seen in self._seen]),
            "instruction": np.array([seen.instruction for seen in self._seen], object),
            "lost": self.pool.deaths - deaths_before,
        }
        if self._counts:
            info |= self._counts.info()
        present = np.ones(self.num_envs, bool)
        return info | {f"_{key}": present for key in info}


def _notes(given: LabSettings, asked: dict[str, Any]) -> tuple[str, ...]:
    """What the settings imply and nobody asked for."""
    if not given.holdout or asked.get("holdout"):
        return ()
    return (
        f"{given.level} is for tests only: it is played with holdout=True, mixer seed "
        f"{HOLDOUT_MIXER_SEED if given.mixer_seed is None else given.mixer_seed:#x}; "
        f"{given.level.removesuffix('_test')}_train is for training",
    )
