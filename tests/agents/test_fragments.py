"""Acting and learning see the same: what a runner did is what the learner's pass over the fragment gives."""

import copy
import gc

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from ray.rllib.core.columns import Columns
from ray.tune import register_env

from agents import MemoryIMPALAConfig, MemoryPPOConfig
from agents.fragment import PICKED, Fragment
from agents.rllib.config import MemoryAlgorithmConfig
from agents.rllib.learner import _columns
from agents.rllib.runner import FINISHED_EPISODES, MemoryEnvRunner
from ct_rl.memory import memory_class, memory_names, state_bytes
from envs.seeding import world_seeds
from tests.agents.counting import CountingEnv, WideEnv, create
from tests.agents.odd import ACTIONS, OBSERVATIONS, Odd

SMALL = {name: memory_class(name).small for name in memory_names()}


def make_runner(
    memory: str,
    rows: int = 4,
    steps: int = 11,
    env: str = "counting",
    vectorize: str = "vector_entry_point",
    config_class: type[MemoryAlgorithmConfig] = MemoryIMPALAConfig,
    encoder: str = "small",
) -> MemoryEnvRunner:
    register_env("counting", create)
    register_env("endless", lambda context: WideEnv(context["num_envs"], 10**9))
    config = (
        config_class()
        .environment(env)
        .memory(memory, d_model=16, **SMALL[memory])
        .network(
            around=False, width=16, encoder=encoder
        )  # a loud path around the memory would drown what it says
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=rows,
            rollout_fragment_length=steps,
            gym_env_vectorize_mode=vectorize,
        )
        .debugging(seed=3)
    )
    runner = MemoryEnvRunner(config=config, worker_index=0)
    with torch.no_grad():  # heads start at zero: a uniform policy would hide every mistake
        for parameter in runner.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    runner.module.double()
    return runner


EXACT = 1e-9  # float64 all the way: what is left is the order of sums, on any processor
SHOWS = 1e-5  # what a mistake must make at least: ten thousand times what exactness leaves


def error(runner, fragments):
    """How far the log-probabilities of the learner's pass are from those of acting, at most."""
    fragment = Fragment.join(fragments).to_device("cpu")
    module = copy.deepcopy(runner.module).train()
    with torch.no_grad():
        out = module._forward_train(_columns(fragment))  # the learner shares this code
    policy = module.net.distribution(out[Columns.ACTION_DIST_INPUTS][:, :-1])
    difference = policy.log_prob(fragment.actions) - fragment.log_probs
    return difference[~fragment.ignored].abs().max().item()


@pytest.mark.parametrize("memory", memory_names())
def test_learning_gives_the_log_probabilities_of_acting(memory):
    runner = make_runner(memory)
    for _ in range(6):
        assert error(runner, runner.sample()) < EXACT


@pytest.mark.parametrize("memory", [name for name in memory_names() if name != "identity"])
@pytest.mark.parametrize("damage", ["dropped", "shifted by one step", "another row's"])
def test_a_wrong_state_shows(memory, damage):
    """The test above has power: it fails when the state is not exactly the fragment's own."""
    runner = make_runner(memory)
    runner.sample()
    fragment = runner.sample()[0]
    if damage == "dropped":
        state = {key: np.zeros_like(x) for key, x in fragment.state.items()}
    elif damage == "another row's":
        state = {key: np.roll(x, 1, 0) for key, x in fragment.state.items()}
    else:
        first = {key: torch.from_numpy(x[:, :1]) for key, x in fragment.obs.items()}
        resets = torch.from_numpy(fragment.resets[:, :1])
        start = {key: torch.from_numpy(x) for key, x in fragment.state.items()}
        with torch.no_grad():
            late = runner.module.net(first, start, resets).state
        state = {key: x.numpy() for key, x in late.items()}
    fragment.state = state
    assert error(runner, [fragment]) > SHOWS


def test_a_missing_reset_shows():
    runner = make_runner("compressive")
    fragments = [f for _ in range(3) for f in runner.sample()]
    for fragment in fragments:
        fragment.resets = np.zeros_like(fragment.resets)
    assert error(runner, fragments) > SHOWS


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_observation_and_action_space(observation, action):
    register_env("odd", lambda _: Odd(OBSERVATIONS[observation], ACTIONS[action]))
    runner = make_runner("lstm", env="odd", vectorize="sync")
    for _ in range(2):
        assert error(runner, runner.sample()) < EXACT


@pytest.mark.parametrize("config_class", [MemoryIMPALAConfig, MemoryPPOConfig])
@pytest.mark.parametrize("observation", ["image", "dict"])
def test_what_acting_picked_goes_along_where_the_weights_that_learn_are_those_that_acted(
    observation, config_class
):
    register_env("odd", lambda _: Odd(OBSERVATIONS[observation], ACTIONS["discrete"]))
    settings = {"env": "odd", "vectorize": "sync", "encoder": "spots"}
    runner = make_runner("lstm", config_class=config_class, **settings)
    for _ in range(2):
        (fragment,) = runner.sample()
        assert error(runner, [fragment]) < EXACT
        if config_class is MemoryIMPALAConfig:
            assert PICKED not in fragment.extra
            continue
        obs, net = fragment.to_device("cpu").obs, runner.module.net
        wanted, found = net._encode(obs, None), net._encode(obs, _picked(fragment))
        assert torch.equal(wanted, found)
        wrong = fragment.map(lambda x: np.zeros_like(x))
        assert not torch.equal(wanted, net._encode(obs, _picked(wrong)))  # they are what is read


def _picked(fragment):
    return fragment.to_device("cpu").extra[PICKED]


class Reusing(CountingEnv):
    """Gives the same arrays each time, as gymnasium's vector environments do with `copy=False`."""

    def _observe(self):
        seen = super()._observe()
        self.given = getattr(self, "given", None) or {k: x.copy() for k, x in seen.items()}
        for key, x in seen.items():
            self.given[key][:] = x
        return self.given


@pytest.mark.parametrize("env_name", ["counting", "reusing"])
def test_a_fragment_holds_what_the_environment_did(env_name):
    """Replays the recorded actions in a fresh environment: observations, rewards and ends must agree."""
    rows, steps = 5, 9
    register_env("reusing", lambda context: Reusing(context["num_envs"]))
    runner = make_runner("lstm", rows, steps, env_name)
    env = CountingEnv(rows)
    obs, _ = env.reset(seed=world_seeds(3, rows))
    fresh, ended = np.ones(rows, bool), np.zeros(rows, bool)
    for _ in range(4):
        (fragment,) = runner.sample()
        assert fragment.rewards.shape == (rows, steps)
        for t in range(steps):
            for key, value in obs.items():
                np.testing.assert_array_equal(fragment.obs[key][:, t], value)
            np.testing.assert_array_equal(fragment.resets[:, t], fresh)
            np.testing.assert_array_equal(fragment.ignored[:, t], ended)
            obs, reward, terminated, truncated, _ = env.step(fragment.actions[:, t])
            np.testing.assert_array_equal(fragment.rewards[:, t], reward)
            np.testing.assert_array_equal(fragment.terminateds[:, t], terminated)
            np.testing.assert_array_equal(fragment.truncateds[:, t], truncated)
            fresh, ended = ended, terminated | truncated
        for key, value in obs.items():
            np.testing.assert_array_equal(fragment.obs[key][:, -1], value)


def test_episodes_are_counted_once_and_whole():
    runner = make_runner("gru", rows=3, steps=10)
    returns = np.zeros(3)
    expected = []
    for _ in range(8):
        (fragment,) = runner.sample()
        for t in range(10):
            returns += np.where(fragment.ignored[:, t], 0, fragment.rewards[:, t])
            for i in np.flatnonzero(fragment.ends[:, t]):
                expected.append((returns[i], 7 + i))
                returns[i] = 0
    episodes = runner.take_notes()[FINISHED_EPISODES]
    assert [(e["return"], e["length"]) for e in episodes] == expected
    assert all(e["hits"] == e["return"] for e in episodes)
    assert runner.take_notes()[FINISHED_EPISODES] == []


def test_a_lost_episode_is_in_no_figure_of_training():
    runner = make_runner("gru", rows=2, steps=10)
    runner.sample()
    before = len(runner.take_notes()[FINISHED_EPISODES])
    runner._actor.finished.append((0, {"return": 99.0, "length": 2, "lost": 1.0}))
    runner.sample()
    episodes = runner.take_notes()[FINISHED_EPISODES]
    assert before and episodes and all(e["return"] < 99 for e in episodes)


def test_a_fragment_ships_its_state_once():
    runner = make_runner("compressive", rows=4, steps=11)
    (fragment,) = runner.sample()
    assert sum(x.nbytes for x in fragment.state.values()) == state_bytes(
        runner.module.net.initial_state(4)
    )


@pytest.mark.parametrize("written_by", ["hand", "adam", "fused adam"])
def test_new_weights_in_mid_episode_do_not_leave_stale_caches(written_by):
    runner = make_runner("compressive")
    runner.sample()
    parameters = list(runner.module.parameters())
    optimizer = torch.optim.Adam(parameters, lr=0.1, fused=written_by == "fused adam")
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    if written_by == "hand":
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(parameter.grad * 0.1)
    else:
        optimizer.step()
    runner._weights_seq_no += 1
    assert error(runner, runner.sample()) < EXACT


def test_an_environment_with_another_autoreset_mode_is_refused():
    register_env("same_step", lambda context: _same_step(context["num_envs"]))
    config = (
        MemoryIMPALAConfig()
        .environment("same_step")
        .memory("lstm", hidden=8)
        .env_runners(num_env_runners=0, gym_env_vectorize_mode="vector_entry_point")
    )
    with pytest.raises(ValueError, match="NEXT_STEP"):
        MemoryEnvRunner(config=config, worker_index=0)


def _same_step(num_envs):
    env = CountingEnv(num_envs)
    env.metadata = {**env.metadata, "autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}
    return env


@pytest.mark.slow
def test_two_hundred_fragments_leave_no_memory_behind():
    """Episodes that never end: RLlib's own runner keeps every chunk of them."""
    runner = make_runner("lstm", rows=32, steps=40, env="endless")
    process = psutil.Process()
    for _ in range(20):
        runner.sample()
    gc.collect()
    before = process.memory_info().rss
    for _ in range(200):
        (fragment,) = runner.sample()
    size = sum(x.nbytes for x in fragment.obs.values())
    gc.collect()
    grown = process.memory_info().rss - before
    assert grown < 10 * size, f"{grown:,} bytes over 200 fragments of {size:,}"
