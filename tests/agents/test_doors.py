"""An environment by name and by class is the same environment; masks and modules reach every process."""

import dataclasses
import sys
import threading
import types

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune import register_env

import envs
from agents import (
    AuxiliaryLoss,
    MemoryPPOConfig,
    encoders,
    register_auxiliary,
    register_encoder,
    with_memory,
)
from agents.auxiliary import registry as losses
from agents.rllib.internals import environment_creator
from agents.rllib.registration import register_class
from agents.rllib.runner import MemoryEnvRunner
from ct_rl.memory import memory_class, memory_names, memory_options, register_memory, registry
from ct_rl.scores import env_facts
from tests.agents.odd import OBSERVATIONS, Odd


@pytest.fixture
def forgets(monkeypatch):
    """What a test registers is unknown to the next."""
    for module, name in (
        (registry, "_CORES"),
        (losses, "_LOSSES"),
        (encoders.registry, "IMAGE_ENCODERS"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


class Nested(gym.Env):
    """A grey frame and a nested Dict, as games give them."""

    observation_space = gym.spaces.Dict(
        {
            "screen": gym.spaces.Box(0, 255, (40, 40), np.uint8),
            "self": gym.spaces.Dict({"health": gym.spaces.Box(0, 1, (1,), np.uint8)}),
        }
    )
    action_space = gym.spaces.Box(0, 1000, (1,), np.float32)

    def __init__(self, config=None):
        pass

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 6
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.left -= 1
        return self.observation_space.sample(), 1.0, self.left == 0, False, {}


class Choosy(gym.Env):
    """Allows one action of three in every step, and says which."""

    observation_space = gym.spaces.Dict(
        action_mask=gym.spaces.MultiBinary(3), step=gym.spaces.Discrete(9)
    )
    action_space = gym.spaces.Discrete(3)

    def __init__(self, config=None):
        pass

    def _observe(self):
        self.allowed = int(self.np_random.integers(3))
        return {"action_mask": np.eye(3, dtype=np.int8)[self.allowed], "step": self.t}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._observe(), {}

    def step(self, action):
        assert action == self.allowed, "a forbidden action"
        self.t += 1
        return self._observe(), 1.0, self.t == 8, False, {}


def small(config):
    return (
        config.memory("gru", d_model=8, hidden=8)
        .network(width=8)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=9)
        .training(train_batch_size_per_learner=18)
        .reporting(min_time_s_per_iteration=0)
        .debugging(seed=1)
    )


def runner_of(env):
    config = small(MemoryPPOConfig().environment(env))
    config.validate()
    return MemoryEnvRunner(config=config, worker_index=0)


def test_by_class_and_by_name_is_the_same_environment():
    envs.register("nested_by_name", Nested)
    spaces = [runner_of(env).get_spaces()["__env_single__"] for env in (Nested, "nested_by_name")]
    assert spaces[0] == spaces[1]
    assert "last_action" in spaces[0][0].spaces
    (fragment,) = runner_of(Nested).sample()
    assert np.abs(fragment.obs["last_action"]).max() <= 1.0, (
        "the policy's own action, not 0 to 1000"
    )


def test_forbidden_actions_are_never_taken_nor_learned():
    runner = runner_of(Choosy)
    for _ in range(3):
        (fragment,) = runner.sample()
    fragment = fragment.to_device("cpu")
    net = runner.module.net
    assert net.masks
    out = net(fragment.obs, fragment.state, fragment.resets)
    policy = net.distribution(out.policy[:, :-1])
    # One action is allowed: it is certain, there is nothing to explore, and nothing to learn.
    torch.testing.assert_close(policy.entropy(), torch.zeros_like(policy.entropy()))
    torch.testing.assert_close(fragment.log_probs, torch.zeros_like(fragment.log_probs))
    (policy.log_prob(fragment.actions).sum() - policy.entropy().sum()).backward()
    assert not net.policy.weight.grad.any()


def test_what_a_script_registers_is_known_in_a_runners_process(build):
    gym.register("OnlyHere-v0", entry_point=Choosy)
    envs.register("only_here", Choosy)
    for name in ("OnlyHere-v0", "only_here"):
        config = MemoryPPOConfig().environment(name).memory("gru", d_model=8, hidden=8)
        creator = config.env
        assert creator == name

        @ray.remote
        def names_there(pickled):
            env = pickled({"num_envs": 2})
            return env.single_action_space

        from agents.rllib.internals import environment_creator

        space = ray.get(names_there.remote(environment_creator(name)))
        assert space == gym.spaces.Discrete(3)


def test_modules_are_imported_where_they_are_needed(monkeypatch):
    module = types.ModuleType("my_environments")
    monkeypatch.setitem(sys.modules, "my_environments", module)
    config = MemoryPPOConfig().environment("CartPole-v1").imports("my_environments")
    assert config._module_settings["imports"] == ("my_environments",)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        MemoryPPOConfig().imports("no_such_module")


@pytest.mark.parametrize(
    "calls",
    [
        [("Sized-v0", {"num_envs": 7, "size": 3})],
        [(None, {"num_envs": 7, "size": 3}), ("Sized-v0", None)],
        [("Sized-v0", None), (None, {"num_envs": 7, "size": 3})],
        [("Sized-v0", {"num_envs": 7, "size": 2}), (None, {"size": 3})],
        [("Sized-v0", {"num_envs": 6, "size": 3}), (None, {"num_envs": 7})],
    ],
)
def test_a_setting_named_num_envs_is_the_environments_own(calls):
    class Sized(gym.Env):
        observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

        def __init__(self, num_envs=1, size=1):
            self.size = (num_envs, size)

        def reset(self, *, seed=None, options=None):
            return 0, {}

        def step(self, action):
            return 0, 0.0, True, False, {}

    gym.register("Sized-v0", entry_point=Sized)
    from agents.rllib.internals import environment_creator

    config = MemoryPPOConfig()
    for name, settings in calls:
        given = {"env": name, "env_config": settings}
        config.environment(**{key: value for key, value in given.items() if value is not None})
    assert "num_envs" not in config.env_config  # which RLlib sets itself
    env = environment_creator("Sized-v0")({**config.env_config})
    assert env.unwrapped.size == (7, 3)
    register_env("somebody's", dict)
    found = config.environment("somebody's").env_config
    assert found == {"num_envs": 7, "size": 3}  # as it was given: its maker knows no other


def test_functions_of_one_name_are_environments_of_their_own():
    def maker(length):
        return lambda context: gym.make("CartPole-v1", max_episode_steps=length)

    one, other = maker(3), maker(4)
    names = [register_class(each) for each in (one, other, one)]
    assert names[0] == names[2] != names[1]
    lengths = [environment_creator(name)({}).spec.max_episode_steps for name in names[:2]]
    assert lengths == [3, 4]


def test_a_class_that_is_made_again_takes_its_name_and_place():
    def made(length):
        return type("Again", (Nested,), {"__qualname__": "Again", "length": length})

    names = [register_class(made(length)) for length in (1, 2)]
    assert names[0] == names[1]
    assert environment_creator(names[0])({}).unwrapped.length == 2


def broken(context):
    raise KeyError("no such map")


@pytest.mark.parametrize(
    "change, error, said",
    [
        (lambda config: config.environment(broken), KeyError, "no such map"),
        (lambda config: config.memory("compressive", rate=3, window=16), ValueError, "rate=3"),
    ],
    ids=["environment", "memory"],
)
def test_what_a_remote_runner_cannot_make_is_said_in_the_driver(cluster, change, error, said):
    config = MemoryPPOConfig().environment("CartPole-v1").env_runners(num_env_runners=1)
    with pytest.raises(error, match=said):
        change(config).build_algo()


BATCHED, ASYNC = "vector_entry_point", "async"


def test_a_vectorize_mode_that_was_given_stays():
    first = MemoryPPOConfig().env_runners(gym_env_vectorize_mode=ASYNC).environment("CartPole-v1")
    last = MemoryPPOConfig().environment("CartPole-v1").env_runners(gym_env_vectorize_mode=ASYNC)
    sync = MemoryPPOConfig().env_runners(gym_env_vectorize_mode="sync").environment("CartPole-v1")
    told = MemoryPPOConfig().update_from_dict({"gym_env_vectorize_mode": "sync"})
    told.environment("CartPole-v1")
    wanted = {first: ASYNC, last: ASYNC, sync: "sync", told: "sync"}
    for config in list(wanted):
        wanted[config.copy()] = wanted[config]
        wanted[MemoryPPOConfig.from_dict(config.to_dict())] = wanted[config]
    for config, mode in wanted.items():
        config.validate()
        assert config.gym_env_vectorize_mode == mode


def test_without_one_it_follows_the_environment():
    config = MemoryPPOConfig().environment("CartPole-v1")
    assert config.gym_env_vectorize_mode == BATCHED
    assert config.environment(Nested).gym_env_vectorize_mode == "sync"
    assert config.environment("CartPole-v1").gym_env_vectorize_mode == BATCHED
    assert MemoryPPOConfig.from_dict(config.to_dict()).gym_env_vectorize_mode == BATCHED


@pytest.mark.parametrize("env", ["CartPole-v1", Nested])
def test_an_environment_is_the_same_by_every_door(env):
    by_method = small(MemoryPPOConfig().environment(env))
    by_dict = small(MemoryPPOConfig().update_from_dict({"env": env}))
    by_attribute = small(MemoryPPOConfig())
    by_attribute.env = env
    other = "Acrobot-v1"
    evaluated = small(MemoryPPOConfig().environment(other)).evaluation(
        evaluation_config={"env": env}
    )
    for config in (by_method, by_dict, by_attribute, evaluated.get_evaluation_config_object()):
        config.validate()
        assert (config.env, config.gym_env_vectorize_mode) == (
            by_method.env,
            by_method.gym_env_vectorize_mode,
        )
        space = MemoryEnvRunner(config=config, worker_index=0).env.single_observation_space
        assert "last_action" in space.spaces


def test_an_environment_given_at_the_end_is_adapted(cluster):
    algo = small(MemoryPPOConfig()).build_algo(env="MountainCar-v0")
    assert "last_action" in algo.env_runner.env.single_observation_space.spaces
    assert algo.train()["ct_rl"]["steps"] > 0
    algo.stop()


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.MultiDiscrete([2, 3], start=[1, 5]),
        gym.spaces.Box(-3, 4, (2,), np.int64),
        gym.spaces.Box(np.float32([0, -1]), np.float32([np.inf, 1])),
    ],
    ids=str,
)
def test_evaluation_takes_the_actions_of_training(space):
    """Also of an environment that nothing adapts, as one of Tune's; `Odd` refuses actions that are not of its space."""
    register_env("odd", lambda _: Odd(OBSERVATIONS["vector"], space))
    runner = runner_of("odd")
    runner.sample()
    assert len(runner.sample(num_episodes=20)) == 20


def test_evaluation_plays_another_environment_of_the_same_spaces(cluster):
    class Short(Nested):
        def reset(self, **kwargs):
            observation, info = super().reset(**kwargs)
            self.left = 3
            return observation, info

    config = small(MemoryPPOConfig().environment(Nested))
    config.evaluation(
        evaluation_duration=2, evaluation_interval=1, evaluation_config={"env": Short}
    )
    algo = config.build_algo()
    assert algo.evaluate()["env_runners"]["episode_len_mean"] == 3
    algo.stop()
    config.evaluation(evaluation_config={"env": "CartPole-v1"})
    with pytest.raises(ValueError) as caught:
        config.build_algo()
    (line,) = str(caught.value).splitlines()
    assert "evaluation's environment 'CartPole-v1' has" in line and "same spaces" in line


@pytest.mark.parametrize("runners", [0, 1])
@pytest.mark.parametrize("part", ["observation_space", "action_space"])
def test_spaces_that_are_not_the_environments_are_refused(cluster, part, runners):
    config = small(MemoryPPOConfig().environment("CartPole-v1"))
    space = getattr(runner_of("CartPole-v1").env, f"single_{part}")
    config.environment(**{part: space}).validate()
    MemoryEnvRunner(config=config, worker_index=0)
    config.environment(**{part: gym.spaces.Box(-1, 1, (7,), np.float32)})
    config.env_runners(num_env_runners=runners)
    with pytest.raises(ValueError) as caught:
        config.build_algo()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{part}=Box(-1.0, 1.0, (7,), float32) was given") and "leave it" in line


@pytest.mark.parametrize("names", ["score", b"score", 5, None, [5]])
def test_counts_that_are_no_list_of_names_are_refused(names):
    class Counted(Nested):
        metadata = {"episode_metrics": names}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"metadata\['episode_metrics'\] is .* a list of names"):
        runner_of(Counted)
    with pytest.raises(ValueError, match=r"metadata\['episode_metrics'\] is .* a list of names"):
        env_facts(Counted.metadata)


def test_what_a_script_registered_for_the_network_is_known_in_a_runners_process(cluster, forgets):
    """Classes that no other process can import: one of a script is sent as it is."""

    class Local(memory_class("identity")):
        pass

    @dataclasses.dataclass(frozen=True)
    class Options:
        d_model: int = 8

    class Mean(AuxiliaryLoss):
        def forward(self, experience):
            return experience.features.square().mean()

    class Grey(torch.nn.Module):
        def __init__(self, space, width):
            super().__init__()
            self.project, self.d_out = torch.nn.Linear(1, width), width

        def forward(self, frames):
            return self.project(frames.float().mean((1, 2)))

    register_memory("local", Local, Options)
    register_auxiliary("local_mean", Mean)
    register_encoder("local_grey", Grey)
    sizes = {"num_envs_per_env_runner": 2, "rollout_fragment_length": 8}
    fast = (
        MemoryPPOConfig()
        .environment(Nested)
        .memory("local", d_model=8)
        .network(width=8, encoder="local_grey")
        .auxiliary("local_mean")
    )
    stock = PPOConfig().environment(Nested)
    for config in (fast, stock):
        config.env_runners(num_env_runners=1, **sizes).training(train_batch_size_per_learner=16)
        config.reporting(min_time_s_per_iteration=0)
    stock.training(minibatch_size=16, num_epochs=1)
    network = {"width": 8, "encoder": "local_grey"}
    with_memory(stock, "local", d_model=8, network=network, auxiliary={"local_mean": {}})
    for config in (fast, stock):
        algo = config.build_algo()
        assert algo.train()["ct_rl"]["local_mean_loss"] > 0
        algo.stop()


def test_a_registered_class_that_cannot_be_sent_is_one_line(forgets):
    lock = threading.Lock()

    class Holding(memory_class("identity")):
        held = lock

    register_memory("holding", Holding, memory_options("identity"))
    config = MemoryPPOConfig().memory("holding", d_model=8)
    assert config.copy().carried == config.carried  # where nothing is sent, nothing is in the way
    said = r"^memory 'holding' is registered in this process only.*call .imports\('module'\)$"
    with pytest.raises(ValueError, match=said):
        cloudpickle.dumps(config)


def test_a_config_brings_its_classes_into_another_process(monkeypatch, forgets):
    """As into a trial of Tune's, which looks at the config before anything is built."""

    class Travelled(memory_class("identity")):
        pass

    register_memory("travelled", Travelled, memory_options("identity"))
    sent = cloudpickle.dumps(MemoryPPOConfig().environment("CartPole-v1").memory("travelled"))
    monkeypatch.setattr(registry, "_CORES", {})
    cloudpickle.loads(sent).validate()
    assert "travelled" in memory_names()
