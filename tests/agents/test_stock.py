"""`MemoryRLModule` in stock configs, through RLlib's own runner and connectors."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
import tree
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune import register_env

import envs
from agents import MemoryRLModule, check_stock, with_memory
from agents.auxiliary import auxiliary_names
from agents.auxiliary.registry import _class
from agents.distributions import for_env
from agents.rllib.stock import MemoryCallbacks, check_environment
from ct_rl.memory import memory_class, memory_names, memory_options
from ct_rl.memory.registry import _CORES
from tests.agents.counting import create
from tests.agents.odd import ACTIONS, OBSERVATIONS, Odd
from tests.agents.test_fragments import SMALL

# All is computed in float64; RLlib's connectors store probabilities, actions and states as float32, and rounding to it
# is the same on every processor.
STORED = 1e-5
STOCK = {"impala": IMPALAConfig, "appo": APPOConfig, "ppo": PPOConfig}


def stock_config(algorithm, memory, fragment=11, **model_config):
    register_env("counting", create)
    settings = {
        "memory": memory,
        "memory_options": {"d_model": 16, **SMALL.get(memory, {})},
        "width": 16,
        "around": False,
        "max_seq_len": 2 * fragment,
        **model_config,
    }
    return (
        STOCK[algorithm]()
        .environment("counting")
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=4,
            rollout_fragment_length=fragment,
            gym_env_vectorize_mode="vector_entry_point",
        )
        .rl_module(rl_module_spec=RLModuleSpec(module_class=MemoryRLModule, model_config=settings))
        .debugging(seed=3)
    )


def sampled(config, rounds=4):
    """A runner with loud heads, the learner's copy of its module, and the learner's batches."""
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    with torch.no_grad():
        for parameter in runner.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    runner.module.double()
    pipeline = config.build_learner_connector(*runner.get_spaces()["__env_single__"])
    if isinstance(config, PPOConfig):
        pipeline.prepend(AddOneTsToEpisodesAndTruncate())  # as PPO's learner does
    spec = config.get_multi_rl_module_spec(spaces=runner.get_spaces(), inference_only=False)
    modules = spec.build()
    modules["default_policy"].double()
    modules["default_policy"].load_state_dict(runner.module.state_dict(), strict=False)
    batches = [
        pipeline(rl_module=modules, batch={}, episodes=runner.sample(), shared_data={})
        for _ in range(rounds)
    ]
    return modules["default_policy"], [batch["default_policy"] for batch in batches]


def error(module, batch):
    with torch.no_grad():
        out = module.forward_train(batch)
    policy = module.get_train_action_dist_cls().from_logits(out[Columns.ACTION_DIST_INPUTS])
    difference = policy.logp(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
    return difference[batch[Columns.LOSS_MASK].bool()].abs().max().item()


@pytest.mark.parametrize("memory", memory_names())
@pytest.mark.parametrize("algorithm", STOCK)
def test_stock_connectors_give_the_learner_what_acted(algorithm, memory):
    module, batches = sampled(stock_config(algorithm, memory))
    assert max(error(module, batch) for batch in batches) < STORED
    damages = {
        "dropped": torch.zeros_like,
        "another row's": lambda x: x.roll(1, 0),
    }
    for damage in damages.values():
        wrong = [
            {**batch, Columns.STATE_IN: tree.map_structure(damage, batch[Columns.STATE_IN])}
            for batch in batches
        ]
        if memory != "identity":  # nothing is remembered there
            assert max(error(module, batch) for batch in wrong) > 1e-3


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_every_observation_and_action_space(observation, action):
    register_env("odd", lambda _: Odd(OBSERVATIONS[observation], ACTIONS[action]))
    config = stock_config("ppo", "lstm").environment("odd")
    config.env_runners(gym_env_vectorize_mode="sync")
    module, batches = sampled(config, rounds=2)
    assert max(error(module, batch) for batch in batches) < STORED


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_every_loss_of_the_module_trains_under_a_stock_loss(weight):
    coefficients = {"compression": weight, "contrast": 2 * weight}
    config = stock_config(
        "impala",
        "compressive",
        fragment=20,
        auxiliary={"contrast": {"pairs": 16}},
        loss_coeffs=coefficients,
    )
    module, batches = sampled(config)

    def losses():
        torch.manual_seed(5)  # pairs are drawn
        return module.forward_train(batches[-1])

    losses()[Columns.ACTION_DIST_INPUTS].sum().mul(0.0).backward()
    own = {
        "compression": module.net.core.compressor_parameters(),
        "contrast": list(module.net.auxiliary["contrast"].parameters()),
    }
    for name, parameters in own.items():
        loss = losses()["losses"][name]
        assert module.last_losses[name] == loss
        expected = torch.autograd.grad(coefficients[name] * loss, parameters)
        for parameter, gradient in zip(parameters, expected, strict=True):
            assert gradient.abs().sum() > 0
            torch.testing.assert_close(parameter.grad, gradient)


def test_a_stock_algorithm_reports_every_loss(cluster):
    register_env("counting", create)
    config = PPOConfig().environment("counting")
    config.env_runners(
        num_env_runners=0,
        num_envs_per_env_runner=4,
        rollout_fragment_length=20,
        gym_env_vectorize_mode="vector_entry_point",
    )
    config.training(train_batch_size_per_learner=80, minibatch_size=40, num_epochs=1)
    with_memory(
        config,
        "compressive",
        d_model=16,
        **SMALL["compressive"],
        network={"width": 16},
        auxiliary={"contrast": {"pairs": 16}},
    )
    algo = config.build_algo()
    try:
        report = algo.train()["ct_rl"]
    finally:
        algo.stop()
    assert report["contrast_loss"] > 0 and "compression_loss" in report


LEARNED = (
    Columns.OBS,
    Columns.ACTIONS,
    Columns.REWARDS,
    Columns.LOSS_MASK,
    Columns.SEQ_LENS,
    Columns.STATE_IN,
)


def rows_alone(batch):
    """Each row of a batch as a batch, and as one that ends where the row does."""
    for row, length in enumerate(batch[Columns.SEQ_LENS].long().tolist()):
        alone = {
            key: tree.map_structure(lambda x, row=row: x[row : row + 1], batch[key])
            for key in LEARNED
        }
        short = {
            key: part
            if key in (Columns.STATE_IN, Columns.SEQ_LENS)
            else tree.map_structure(lambda x, length=length: x[:, :length], part)
            for key, part in alone.items()
        }
        yield length, alone, short


# In the second, an episode's first step is compressed at once.
WINDOWS = [SMALL["compressive"], SMALL["compressive"] | {"window": 1, "memory": 0, "rate": 1}]


@pytest.mark.parametrize("sizes", WINDOWS, ids=["windows", "single steps"])
@pytest.mark.parametrize("algorithm", STOCK)
def test_what_fills_a_row_up_is_not_learned_from(algorithm, sizes):
    """The memory's loss and its gradient are those of the row's own steps; so is what the policy makes of these."""
    options = {"memory_options": {"d_model": 16, **sizes}}
    module, batches = sampled(stock_config(algorithm, "compressive", fragment=20, **options))
    compressor = module.net.core.compressor_parameters()
    found = set()
    for length, *both in (row for batch in batches for row in rows_alone(batch)):
        filled, short = (module.forward_train(batch) for batch in both)
        for key in (Columns.ACTION_DIST_INPUTS, Columns.VF_PREDS):
            torch.testing.assert_close(filled[key][:, :length], short[key])
        ours, true = (out["losses"]["compression"] for out in (filled, short))
        torch.testing.assert_close(ours, true)
        for one, other in zip(
            *(torch.autograd.grad(loss, compressor) for loss in (ours, true)), strict=True
        ):
            torch.testing.assert_close(one, other)
        found.add(bool(true))
    assert found == ({True, False} if sizes["window"] > 1 else {True})  # some rows end no window


def test_no_auxiliary_loss_sees_what_fills_a_row_up(led_to):
    every = {name: _class(name).small for name in auxiliary_names()}
    config = stock_config("ppo", "compressive", fragment=20, auxiliary=every)
    module, (batch,) = sampled(config, rounds=1)
    rows = {key: batch[key] for key in LEARNED}
    padding = torch.arange(40) >= batch[Columns.SEQ_LENS][:, None]
    assert padding.any()
    # Whatever it holds: numbers other than zero, and another action's number.
    noise = {
        Columns.OBS: tree.map_structure(
            lambda x: torch.where(padding.view(*padding.shape, *[1] * (x.dim() - 2)), 1 - x, x),
            batch[Columns.OBS],
        ),
        Columns.ACTIONS: torch.where(padding, 1, batch[Columns.ACTIONS]),
        Columns.REWARDS: torch.where(padding, 5.0, batch[Columns.REWARDS]),
    }
    losses = []
    for given in (rows, {**rows, **noise}):
        torch.manual_seed(5)  # pairs are drawn
        losses.append(module.forward_train(given)["losses"])
    assert set(losses[0]) == {"compression", *every}
    torch.testing.assert_close(*losses)


def test_a_memory_without_losses_reads_a_filled_row_in_one_piece():
    module, (batch,) = sampled(stock_config("ppo", "lstm"), rounds=1)
    calls = []
    module.net.core.cell.register_forward_hook(lambda *_: calls.append(1))
    module.forward_train(batch)
    assert len(calls) == 1


def refusal(config):
    with pytest.raises(ValueError) as caught:
        check_stock(config)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("algorithm", STOCK)
def test_rows_shorter_than_a_fragment_are_refused(algorithm):
    config = stock_config(algorithm, "lstm", max_seq_len=11)
    if algorithm == "ppo":
        config.training(train_batch_size_per_learner=44, minibatch_size=22)
    said = refusal(config)
    assert "max_seq_len=11" in said and "to 12 or more" in said
    config.rl_module_spec.model_config["max_seq_len"] = 12
    check_stock(config)
    del config.rl_module_spec.model_config["max_seq_len"]
    assert "no max_seq_len" in refusal(config)


@pytest.mark.parametrize("pipeline", ["env_to_module", "module_to_env", "learner"])
def test_missing_connectors_are_refused(pipeline):
    config = stock_config("impala", "lstm")
    setattr(config, f"add_default_connectors_to_{pipeline}_pipeline", False)
    said = refusal(config)
    assert f"add_default_connectors_to_{pipeline}_pipeline at True" in said


def test_an_unknown_setting_and_an_unknown_action_space_are_refused():
    assert "did you mean 'memory'?" in refusal(stock_config("impala", "lstm", memmory="gru"))
    config = stock_config("impala", "lstm")
    config.environment(action_space=gym.spaces.MultiBinary(3))
    assert "give Discrete, a flat MultiDiscrete or a flat Box" in refusal(config)


def resetting(mode):
    """A stock PPO over environments that reset themselves in `mode`; None declares no mode."""

    def create(context):
        one = lambda: Odd(OBSERVATIONS["vector"], ACTIONS["discrete"])  # noqa: E731
        env = SyncVectorEnv([one] * context["num_envs"], autoreset_mode=mode or "NextStep")
        env.metadata = {"autoreset_mode": mode} if mode else {}
        return env

    register_env("resetting", create)
    config = stock_config("ppo", "lstm").environment("resetting")
    return config.training(train_batch_size_per_learner=44, minibatch_size=22, num_epochs=1)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED, None])
def test_an_environment_that_resets_itself_otherwise_is_refused(mode):
    config = resetting(mode)
    with pytest.raises(ValueError) as caught:
        with_memory(config.env_runners(num_env_runners=2), "lstm")
    (line,) = str(caught.value).splitlines()
    assert f"in mode {mode}: give one whose" in line and "AutoresetMode.NEXT_STEP" in line


def test_a_runner_refuses_such_an_environment_that_the_driver_could_not_see():
    config = with_memory(resetting(AutoresetMode.NEXT_STEP), "lstm")
    resetting(AutoresetMode.SAME_STEP)  # under the same name
    with pytest.raises(ValueError, match="SAME_STEP: give one whose"):
        SingleAgentEnvRunner(config=config, worker_index=0)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3, start=2),
        gym.spaces.MultiDiscrete([2, 3], start=[1, 5]),
        gym.spaces.Box(-3, 4, (2,), np.int64),
    ],
    ids=str,
)
def test_actions_that_rllib_gives_in_other_units_are_refused(space):
    """`Odd` would say so itself; another environment takes the wrong action in silence."""
    register_env("odd", lambda _: Odd(OBSERVATIONS["vector"], space))
    config = stock_config("ppo", "lstm").environment("odd")
    config.env_runners(gym_env_vectorize_mode="sync")
    config.training(train_batch_size_per_learner=44, minibatch_size=22)
    with_memory(config, "lstm", d_model=16, hidden=16)
    with pytest.raises(ValueError, match=r"actions of .*: wrap it in envs\.adapt"):
        SingleAgentEnvRunner(config=config, worker_index=0)
    config.environment("odd", action_space=space)
    with pytest.raises(ValueError, match=r"actions of .*: wrap it in envs\.adapt"):
        check_stock(config)
    register_env("odd", lambda _: envs.adapt(Odd(OBSERVATIONS["vector"], space)))
    adapted = stock_config("ppo", "lstm").environment("odd")
    adapted.env_runners(gym_env_vectorize_mode="sync")
    assert SingleAgentEnvRunner(config=adapted, worker_index=0).sample()


def test_an_environment_that_resets_itself_in_the_next_step_is_sampled():
    config = with_memory(resetting(AutoresetMode.NEXT_STEP), "lstm")
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    assert sum(len(episode) for episode in runner.sample()) >= 44


class Lasting(gym.Env):
    """An episode of so many steps."""

    observation_space, action_space = OBSERVATIONS["vector"], ACTIONS["discrete"]

    def __init__(self, steps):
        self.steps = steps

    def reset(self, *, seed=None, options=None):
        self.left = self.steps
        return self.observation_space.sample(), {}

    def step(self, action):
        self.left -= 1
        return self.observation_space.sample(), 0.0, self.left == 0, False, {}


def test_a_world_that_goes_on_while_others_reset_has_all_its_steps_in_a_row():
    """RLlib does not count resets: the last world makes more steps than a fragment has."""

    def create(context):
        steps = [16] * (context["num_envs"] - 1) + [1000]
        return SyncVectorEnv([lambda n=n: Lasting(n) for n in steps], autoreset_mode="NextStep")

    register_env("lasting", create)
    config = stock_config("ppo", "lstm", fragment=40).environment("lasting")
    config.training(train_batch_size_per_learner=160, minibatch_size=80)
    config = with_memory(config, "lstm")
    runner = SingleAgentEnvRunner(config=config, worker_index=0)
    longest = max(len(episode) for _ in range(3) for episode in runner.sample())
    row = config.rl_module_spec.model_config["max_seq_len"]
    assert 40 < longest < row <= 40 + 4


def test_what_a_hand_made_config_cuts_short_is_said():
    config = stock_config("impala", "lstm", max_seq_len=5)
    with pytest.warns(UserWarning, match="rows are cut after 5 steps"):
        module, batches = sampled(config, rounds=1)
        module.forward_train(batches[0])


def test_importing_agents_changes_nothing_of_rllib():
    """A fresh process: no method of RLlib's config is another one afterwards."""
    code = (
        "from ray.rllib.algorithms.algorithm_config import AlgorithmConfig as C;"
        "before = dict(vars(C)); import agents; agents.MemoryPPOConfig, agents.MemoryRLModule;"
        "from agents.rllib import stock; assert dict(vars(C)) == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_users_callbacks_stay_and_the_check_is_added_once():
    def mine(**kwargs):
        pass

    class Mine(RLlibCallback):
        pass

    plain = with_memory(with_memory(resetting(AutoresetMode.NEXT_STEP), "lstm"), "lstm")
    assert plain.callbacks_class is MemoryCallbacks and plain.serialize()
    config = resetting(AutoresetMode.NEXT_STEP).callbacks(Mine, on_environment_created=mine)
    with_memory(config, "lstm")
    with_memory(config, "lstm")
    assert config.callbacks_on_environment_created == [mine, check_environment]
    assert config.callbacks_class == [Mine, MemoryCallbacks]


@pytest.mark.parametrize("later", ["function", "class", "several functions"])
def test_losses_are_reported_whatever_callbacks_come_later(cluster, later):
    seen = []

    class Mine(RLlibCallback):
        def on_train_result(self, *, result, **kwargs):
            seen.append(result)

    mine = lambda **kwargs: seen.append(kwargs)  # noqa: E731
    config = stock_config("ppo", "lstm").training(
        train_batch_size_per_learner=44, minibatch_size=22, num_epochs=1
    )
    with_memory(config, "lstm", d_model=16, auxiliary={"prediction": {}})
    config.callbacks(
        **{
            "function": {"on_train_result": mine},
            "class": {"callbacks_class": Mine},
            "several functions": {"on_train_result": mine, "on_algorithm_init": mine},
        }[later]
    )
    algo = config.build_algo()
    report = algo.train()["ct_rl"]
    algo.stop()
    assert seen and "prediction_loss" in report


def test_with_memory_is_of_one_policy():
    config = PPOConfig().environment("CartPole-v1").multi_agent(policies={"one", "other"})
    with pytest.raises(ValueError) as caught:
        with_memory(config, "gru")
    (line,) = str(caught.value).splitlines()
    assert "MultiRLModuleSpec" in line and "check_stock" in line


def test_a_batch_without_memory_is_refused():
    module, batches = sampled(stock_config("impala", "lstm"), rounds=1)
    del batches[0][Columns.STATE_IN]
    with pytest.raises(ValueError, match="no 'state_in'"):
        module.forward_train(batches[0])


def test_actions_are_what_the_environment_takes():
    box = gym.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float32)
    action = for_env(box, np.array([[-1.0, 1.0], [0.0, 5.0]]))
    np.testing.assert_allclose(action, [[-2.0, 10.0], [0.0, 10.0]])
    assert for_env(gym.spaces.Discrete(3, start=5), np.array([2])) == 7


class Flagged(memory_class("identity")):
    """Remembers by a flag that an episode runs."""

    def initial_state(self, batch_size):
        running = torch.zeros(batch_size, 1, dtype=torch.bool)
        return {**super().initial_state(batch_size), "running": running}

    def run(self, x, state, resets, attention):
        assert state["running"].dtype == torch.bool
        out = super().run(x, state, resets, attention)
        out.state["running"] = torch.ones_like(state["running"])
        return out


def test_a_state_of_any_type_trains(monkeypatch):
    monkeypatch.setitem(_CORES, "flagged", (Flagged, memory_options("identity")))
    module, batches = sampled(stock_config("ppo", "flagged"), rounds=1)
    module.forward_train(batches[0])
