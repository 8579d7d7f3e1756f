"""The old API stack: `custom_model="compressive_transformer"` acts as it learns, and trains."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.policy.rnn_sequencing import pad_batch_to_sequences_of_same_size
from ray.rllib.policy.sample_batch import SampleBatch
from ray.tune import register_env

from agents import register
from agents.auxiliary import auxiliary_names
from agents.auxiliary.registry import _class
from agents.rllib.old_stack import MemoryModelV2
from tests.agents.odd import ACTIONS, OBSERVATIONS, Odd
from tests.agents.test_fragments import SMALL


def configured(config, memory="compressive", observation="vector", action="discrete"):
    register()
    register_env("odd", lambda _: Odd(OBSERVATIONS[observation], ACTIONS[action]))
    settings = {
        "memory": memory,
        "memory_options": {"d_model": 16, **SMALL[memory]},
        "around": False,
        "width": 16,
    }
    model = {
        "custom_model": "compressive_transformer",
        "custom_model_config": settings,
        "max_seq_len": 4,  # less than any episode: of each, some rows begin in the middle
    }
    return (
        config.api_stack(
            enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
        )
        .environment("odd")
        .framework("torch")
        .env_runners(num_env_runners=0, rollout_fragment_length=40)
        .training(model=model, train_batch_size=40)
        .resources(num_gpus=0)  # IMPALA's old default is 1
        .debugging(seed=3, log_level="ERROR")
    )


@pytest.mark.parametrize(
    "memory, observation, action",
    [
        ("compressive", "dict", "discrete"),
        ("lstm", "image", "multi-discrete"),
        ("gtrxl", "vector", "continuous"),
    ],
)
def test_the_learners_rows_give_what_acted(cluster, memory, observation, action):
    config = configured(PPOConfig(), memory, observation, action)
    config.training(minibatch_size=40)
    algo = config.build_algo()
    try:
        policy = algo.get_policy()
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        batch = algo.env_runner.sample()
        batch = (
            batch.policy_batches["default_policy"] if hasattr(batch, "policy_batches") else batch
        )
        pad_batch_to_sequences_of_same_size(
            batch, max_seq_len=4, view_requirements=policy.view_requirements
        )
        tensors = policy._lazy_tensor_dict(batch)
        policy.model.eval()
        with torch.no_grad():
            logits, _ = policy.model(tensors)
        log_probs = policy.dist_class(logits, policy.model).logp(tensors[SampleBatch.ACTIONS])
        lengths, longest = np.asarray(batch[SampleBatch.SEQ_LENS]), batch.max_seq_len
        there = torch.from_numpy((np.arange(longest) < lengths[:, None]).reshape(-1))
        error = (log_probs - tensors[SampleBatch.ACTION_LOGP])[there].abs().max()
        assert len(lengths) > 40 / 9 and error < 1e-4
        for key in [k for k in tensors if k.startswith("state_in_")]:
            tensors[key] = torch.zeros_like(tensors[key])
        with torch.no_grad():
            logits, _ = policy.model(tensors)
        dropped = policy.dist_class(logits, policy.model).logp(tensors[SampleBatch.ACTIONS])
        assert (dropped - tensors[SampleBatch.ACTION_LOGP])[there].abs().max() > 1e-3
    finally:
        algo.stop()


@pytest.mark.parametrize("stock", [PPOConfig, IMPALAConfig])
def test_it_trains_a_few_iterations(cluster, stock):
    config = configured(stock())
    if stock is PPOConfig:
        config.training(minibatch_size=20, num_epochs=2)
    config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=80)
    algo = config.build_algo()
    try:
        model = algo.get_policy().model
        before = {key: x.clone() for key, x in model.state_dict().items()}
        for _ in range(3):
            result = algo.train()
        assert result["num_env_steps_trained"] >= 80
        moved = [key for key, x in model.state_dict().items() if not torch.equal(x, before[key])]
        assert any("policy" in key for key in moved)
        assert any("compress" in key for key in moved)
    finally:
        algo.stop()


def old_model(**more):
    """The model by itself, as float64."""
    torch.manual_seed(0)
    config = {"memory_options": {"d_model": 16, **SMALL["compressive"]}, "width": 16} | more
    box, two = OBSERVATIONS["vector"], ACTIONS["discrete"]
    model = MemoryModelV2(box, two, 2, {}, "model", **config).double()
    model._empty = model.net.initial_state(1)
    return model.train()


def own_losses(model, observation, lengths):
    """What it adds to a policy's loss for rows [N, T, ...] of these lengths, by name."""
    rows, steps = observation.shape[:2]
    state = [x.expand(rows, *x.shape) for x in model.get_initial_state()]
    flat = observation.flatten(0, 1)
    given = {"actions": torch.zeros(rows * steps).long(), "rewards": torch.zeros(rows * steps)}
    torch.manual_seed(5)  # pairs are drawn
    model({"obs": flat}, state, torch.tensor(lengths))
    return model._own_losses(given)


@pytest.mark.parametrize(
    "length, window, ends_windows", [(5, 4, False), (9, 4, True), (14, 4, True), (5, 1, True)]
)
def test_what_fills_a_row_up_is_not_learned_from(length, window, ends_windows):
    sizes = SMALL["compressive"] | ({"window": 1, "memory": 0, "rate": 1} if window == 1 else {})
    model = old_model(memory_options={"d_model": 16, **sizes})
    seen = torch.randn(2, 33, *OBSERVATIONS["vector"].shape)
    seen[:, length:] = 0.0
    filled = own_losses(model, seen, [length] * 2)["compression"]
    true = own_losses(model, seen[:, :length], [length] * 2)["compression"]
    assert bool(true) == ends_windows
    torch.testing.assert_close(filled, true)
    compressor = model.net.core.compressor_parameters()
    both = (torch.autograd.grad(loss, compressor) for loss in (filled, true))
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other)


def test_no_auxiliary_loss_sees_what_fills_a_row_up(led_to):
    every = {name: _class(name).small for name in auxiliary_names()}
    model = old_model(auxiliary=every)
    seen = torch.randn(2, 33, *OBSERVATIONS["vector"].shape)
    other = seen.clone()
    other[0, 12:] += 1.0
    losses = [own_losses(model, x, [12, 33]) for x in (seen, other)]
    assert set(losses[0]) == {"compression", *every}
    torch.testing.assert_close(*losses)


def test_an_observation_space_without_a_network_is_refused():
    with pytest.raises(ValueError, match="no encoder reads observations of"):
        MemoryModelV2(gym.spaces.Text(3), gym.spaces.Discrete(2), 2, {}, "model")
