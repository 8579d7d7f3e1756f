"""Acting in a vector environment: what is counted, what is remembered, what is said when it goes wrong."""

from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

import envs
from agents import ActorCritic
from agents.acting import Actor, reset
from agents.actor_critic import as_tensors
from ct_rl.scores import env_facts, episode_means
from envs.adapt import Adapted
from envs.seeding import world_seeds
from envs.wrappers import LastStepVector
from tests.agents.counting import CountingEnv


def actor(env, **more):
    torch.manual_seed(0)
    net = ActorCritic(
        env.single_observation_space,
        env.single_action_space,
        memory="gru",
        memory_options={"d_model": 8, "hidden": 8},
        width=8,
    )
    return Actor(net, env, seeds=world_seeds(1, env.num_envs), **more)


def test_episodes_are_noted_with_their_world_and_counts():
    playing = actor(CountingEnv(3), metrics=("hits",))
    for _ in range(12):
        playing.step(explore=True)
    finished = playing.take_finished()
    assert [world for world, _ in finished] == [0, 1, 2]
    assert [episode["length"] for _, episode in finished] == [7, 8, 9]
    assert all(episode["hits"] == episode["return"] for _, episode in finished)
    assert playing.take_finished() == []


class Halving(CountingEnv):
    """Notes whether it is stepped under autocast."""

    halved = False

    def step(self, actions):
        self.halved |= torch.is_autocast_enabled("cpu")
        return super().step(actions)


def test_the_network_is_asked_in_the_precision_that_is_given_and_the_environment_is_not():
    playing = actor(Halving(2), precision=lambda kind: torch.autocast(kind, torch.bfloat16))
    seen = set()
    sight = next(
        part for part in playing.net.encoder.modules() if isinstance(part, torch.nn.Linear)
    )
    sight.register_forward_hook(lambda module, given, out: seen.add(out.dtype))
    playing.step(explore=True)
    playing.look()
    assert seen == {torch.bfloat16} and not playing.env.halved


class Dying(CountingEnv):
    """World 0 dies in step 3; world 1's `lost` comes with an end of its own, which is a game's and no death."""

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        died = np.array([self.t[0] == 3, False])
        self.ended = self.ended | died
        terminated, truncated = truncated, terminated | died  # world 1 terminates
        lost = np.array([int(died[0]), int(terminated[1])])
        return obs, reward, terminated, truncated, {**info, "lost": lost}


def test_an_episode_whose_world_died_is_marked_as_lost():
    playing = actor(Dying(2), metrics=("hits",))
    for _ in range(9):
        playing.step(explore=True)
    finished = playing.take_finished()
    assert [(world, episode["length"], "lost" in episode) for world, episode in finished] == [
        (0, 3, True),
        (0, 3, True),
        (1, 8, False),
    ]
    assert playing.lost == 3


def test_a_count_named_lost_is_the_environments_own():
    playing = actor(Dying(2), metrics=("lost",))
    for _ in range(4):
        playing.step(explore=True)
    ((world, episode),) = playing.take_finished()
    assert (world, episode["length"], episode["lost"]) == (0, 3, 1.0)
    assert playing.lost == 0


class Sometimes(CountingEnv):
    """Tells its count in world 0 alone, as gymnasium's masks say, and no other count at all."""

    def step(self, actions):
        *rest, info = super().step(actions)
        return (*rest, {**info, "_hits": np.array([True, False, False])})


def test_a_count_that_is_not_given_is_not_counted_as_0():
    playing = actor(Sometimes(3), metrics=("hits", "never"))
    for _ in range(12):
        playing.step(explore=True)
    counted = {world: episode for world, episode in playing.take_finished()}
    assert "hits" in counted[0] and "hits" not in counted[1]
    assert not any("never" in episode for episode in counted.values())


class Undefined(CountingEnv):
    """Tells a count that is 0 / 0, and may pay without bound."""

    pays = 1.0

    def step(self, actions):
        obs, reward, *rest, info = super().step(actions)
        share = {"share": np.full(self.num_envs, np.nan)}
        return (obs, np.where(self.t == 3, self.pays, reward), *rest, {**info, **share})


def test_a_count_that_is_no_number_is_not_counted():
    playing = actor(Undefined(2), metrics=("hits", "share"))
    for _ in range(12):
        playing.step(explore=True)
    finished = playing.take_finished()
    assert finished and all(set(episode) == {"return", "length", "hits"} for _, episode in finished)


@pytest.mark.parametrize("paid", [float("inf"), float("nan")])
def test_a_reward_that_is_no_number_is_named(paid):
    env = Undefined(2)
    env.pays = paid
    playing = actor(env)
    with pytest.raises(ValueError, match=rf"reward of world 0 is {paid} in step 3 of its episode"):
        for _ in range(5):
            playing.step(explore=True)


def test_what_acts_is_what_a_pass_over_the_steps_gives():
    playing = actor(CountingEnv(2))
    torch.nn.init.normal_(playing.net.policy.weight)
    start = {key: x.clone() for key, x in playing.state.items()}
    seen, steps = [], []
    for _ in range(15):
        seen.append({key: x.copy() for key, x in playing.obs.items()})
        steps.append(playing.step(explore=False))
    obs = {key: torch.from_numpy(np.stack([at[key] for at in seen], 1)) for key in seen[0]}
    resets = torch.from_numpy(np.stack([step.resets for step in steps], 1))
    with torch.no_grad():
        out = playing.net(obs, start, resets)
    log_probs = playing.net.distribution(out.policy).log_prob(
        torch.from_numpy(np.stack([step.actions for step in steps], 1))
    )
    acted = torch.from_numpy(np.stack([step.log_probs for step in steps], 1))
    torch.testing.assert_close(log_probs, acted)
    torch.testing.assert_close(out.state, playing.state)


class OneNumber(CountingEnv):
    """Takes one number for a seed, as gymnasium's base class does."""

    def reset(self, *, seed=None, options=None):
        gym.vector.VectorEnv.reset(self, seed=seed)
        return super().reset(seed=seed)


def test_an_environment_that_takes_one_number_gets_one():
    reset(OneNumber(2), world_seeds(3, 2))


def test_an_error_of_a_reset_is_not_swallowed():
    class Broken(CountingEnv):
        def reset(self, *, seed=None, options=None):
            raise ValueError("no such level")

    with pytest.raises(ValueError, match="no such level"):
        reset(Broken(2), [1, 2])


class Named(CountingEnv):
    """Its counts have the names of what every episode has."""

    def step(self, actions):
        obs, reward, terminated, truncated, info = super().step(actions)
        own = np.full(self.num_envs, 77.0)
        return obs, reward, terminated, truncated, {**info, "return": own, "length": own}


def test_a_count_named_as_an_episodes_own_stands_beside_it():
    playing = actor(Named(2), metrics=("hits", "return", "length"))
    for _ in range(9):
        playing.step(explore=True)
    episodes = [episode for _, episode in playing.take_finished()]
    assert [(e["length"], e["return"] == e["hits"]) for e in episodes] == [(7, True), (8, True)]
    means = episode_means(episodes, ("hits", "return", "length"))
    assert means["length"] == 7.5 and means["return"] == means["hits"]
    assert means["episode_length"] == means["episode_return"] == 77.0


def test_an_observation_may_be_a_flipped_view():
    frame = np.arange(36 * 36 * 3).reshape(36, 36, 3).astype(np.uint8)
    flipped = as_tensors({"frame": frame[None, ::-1]})["frame"]
    assert np.array_equal(flipped.numpy(), np.ascontiguousarray(frame[None, ::-1]))


def test_counts_that_are_no_list_are_refused():
    with pytest.raises(ValueError, match="'score': expected a list of names"):
        env_facts({"episode_metrics": ("score")})


class Plain(gym.Env):
    """Three numbers, five steps; subclasses get one thing wrong."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)
    metadata: ClassVar[dict] = {"episode_metrics": ("score",)}
    t = score = 0

    def observe(self):
        return np.zeros(3, np.float32)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        return self.observe(), 1.0, self.t == 5, False, {"score": self.score}


class Wide(Plain):
    def observe(self):
        return np.zeros(4 if self.t == 3 else 3, np.float32)


class WideAtOnce(Plain):
    def observe(self):
        return np.zeros(4, np.float32)


class Beyond(Plain):
    observation_space = gym.spaces.Dict(a=gym.spaces.Discrete(3), b=gym.spaces.Box(-1, 1, (3,)))

    def observe(self):
        return {"a": self.t, "b": np.zeros(3, np.float32)}


class Four(Plain):
    def step(self, action):
        return super().step(action)[:4]


class Unpaid(Plain):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, None, *rest


class Alone(Plain):
    def reset(self, **more):
        return super().reset(**more)[0]


class Pair(Plain):
    observation_space = gym.spaces.Box(-1, 1, (2,))

    def reset(self, **more):
        return np.zeros(2, np.float32)


@pytest.mark.parametrize(
    "cls, said",
    [
        (Wide, "the observation's part 'vector' of world 0 is float32 [4], and its space is a Box"),
        (WideAtOnce, "the observation's part 'vector' of world 0 is float32 [4], and its space is"),
        (Beyond, "the observation's part 'a' of world 0 is 3, and its space is Discrete(3): mend"),
        (Four, "step gave 4 values, expected five: observation, reward, terminated, truncated"),
        (
            Unpaid,
            "step gave the reward None, terminated False, truncated False: expected one number",
        ),
        (Alone, "reset gave one ndarray, expected two: observation, info"),
        (Pair, "reset gave one ndarray, expected two: observation, info"),
        (
            type("Text", (Plain,), {"score": "won"}),
            "info['score'] of world 0 is 'won' at the end of",
        ),
        (type("List", (Plain,), {"score": [1, 2]}), "info['score'] of world 0 is [1, 2] at the"),
        (type("None", (Plain,), {"score": None}), "info['score'] of world 0 is None at the end"),
    ],
)
def test_what_an_environment_gets_wrong_is_named(cls, said):
    mode = AutoresetMode.NEXT_STEP
    env = LastStepVector(SyncVectorEnv([lambda: Adapted(cls())] * 2, autoreset_mode=mode))
    with pytest.raises(ValueError) as caught:
        playing = actor(env, metrics=cls.metadata["episode_metrics"])
        for _ in range(6):
            playing.step(explore=True)
    (line,) = str(caught.value).splitlines()
    assert said in line


class Batched(VectorEnv):
    """Two worlds at once, of three numbers and a flag each; subclasses get something wrong."""

    metadata: ClassVar[dict] = {"autoreset_mode": AutoresetMode.NEXT_STEP}
    num_envs = 2
    gives: ClassVar[dict] = {}
    after = 2
    single_action_space = gym.spaces.Discrete(2)
    single_observation_space: ClassVar[gym.Space] = gym.spaces.Dict(
        at=gym.spaces.Box(-1, 1, (3,)), near=gym.spaces.MultiBinary(1)
    )
    action_space = batch_space(single_action_space, num_envs)
    observation_space = batch_space(single_observation_space, num_envs)
    t = 0

    def observe(self):
        right = {"at": np.zeros((2, 3), np.float32), "near": np.zeros((2, 1), np.int8)}
        return right | self.gives if self.t >= self.after else right

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self.observe(), {}

    def step(self, actions):
        self.t += 1
        no = np.zeros(2, bool)
        return self.observe(), np.zeros(2), no, no, {}


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize(
    ("gives", "said"),
    [
        ({"at": np.zeros((2, 4))}, "'s part 'at' of 2 worlds is float64 [2, 4], expected [2, 3]"),
        ({"at": np.zeros((3, 3))}, "'s part 'at' of 2 worlds is float64 [3, 3], expected [2, 3]"),
        ({"at": np.zeros((1, 3))}, "'s part 'at' of 2 worlds is float64 [1, 3], expected [2, 3]"),
        ({"at": np.zeros(3)}, "'s part 'at' of 2 worlds is float64 [3], expected [2, 3]"),
        ({"at": 0.0}, "'s part 'at' of 2 worlds is float [], expected [2, 3]"),
        ({"near": [[0], [0], [0]]}, "'s part 'near' of 2 worlds is list [3, 1], expected [2, 1]"),
        ({"at": None}, "'s part 'at' of 2 worlds is NoneType [], expected [2, 3]"),
    ],
)
def test_what_a_vector_environment_gets_wrong_is_named(gives, said, after):
    wrong = type("Wrong", (Batched,), {"gives": gives, "after": after})()
    with pytest.raises(ValueError) as caught:
        playing = actor(envs.adapt_vec(wrong))
        for _ in range(3):
            playing.step(explore=True)
    (line,) = str(caught.value).splitlines()
    assert f"the observation{said}" in line and line.endswith(": mend the environment")


def test_a_part_that_a_vector_environment_leaves_out_is_named():
    class Less(Batched):
        def observe(self):
            return {"at": np.zeros((2, 3), np.float32)}

    with pytest.raises(ValueError, match="part 'near' is not there: mend the environment"):
        envs.adapt_vec(Less()).reset()


def test_an_error_of_the_environments_own_stays_as_it_is():
    class Broken(Plain):
        def step(self, action):
            raise KeyError("no such map")

    mode = AutoresetMode.NEXT_STEP
    env = LastStepVector(SyncVectorEnv([lambda: Adapted(Broken())], autoreset_mode=mode))
    with pytest.raises(KeyError, match="no such map"):
        actor(env).step(explore=True)
