"""The losses of APPO and PPO: the clipped surrogate, the target policy, KL, advantages of a batch."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS

from agents.appo import clipped_surrogate
from agents.distributions import distribution, parameter_count
from agents.fragment import IGNORED, collate, rows_of
from agents.gae import gae
from agents.ppo import ADVANTAGES, TARGETS, MemoryPPOLearner
from agents.rewards import clip_reward
from tests.agents.test_fragments import make_runner

CPU = torch.device("cpu")


def test_the_surrogate_stops_growing_where_the_ratio_leaves_its_band():
    ratio = torch.tensor([0.5, 1.0, 2.0])
    gain = clipped_surrogate(ratio, torch.ones(3), 0.2)
    loss = clipped_surrogate(ratio, -torch.ones(3), 0.2)
    torch.testing.assert_close(gain, torch.tensor([0.5, 1.0, 1.2]))
    torch.testing.assert_close(loss, torch.tensor([-0.8, -1.0, -2.0]))


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))],
    ids=["discrete", "multi-discrete", "continuous"],
)
def test_kl_is_the_mean_log_ratio_of_samples(space):
    torch.manual_seed(0)
    p, q = torch.randn(2, parameter_count(space)) * 0.5
    one, other = (distribution(space, x.expand(40_000, -1)) for x in (p, q))
    action = one.sample()
    sampled = (one.log_prob(action) - other.log_prob(action)).mean()
    torch.testing.assert_close(one.kl(other).mean(), sampled, atol=0.02, rtol=0.05)
    assert one.kl(one).abs().max() < 1e-6


def test_the_target_policy_reads_from_the_same_memory():
    """A fresh target gives the acting policy over a whole fragment, and keeps still when the net moves."""
    runner = make_runner("compressive")
    runner.sample()
    module = runner.module
    module.make_target_networks()
    batch = rows_of(collate(runner.sample()), slice(None), CPU)

    def target():
        return module.forward_target(batch)[TARGET_NETWORK_ACTION_DIST_INPUTS]

    before = target()
    log_probs = module.net.distribution(before[:, :-1]).log_prob(batch[Columns.ACTIONS])
    error = (log_probs - batch[Columns.ACTION_LOGP])[~batch[IGNORED]].abs()
    assert error.max() < 1e-5
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(target(), before)
    assert not any(p.requires_grad for p in module.target_net.parameters())
    assert "target_net" in module.get_non_inference_attributes()


def test_ppos_batch_holds_centred_advantages_of_the_weights_before_learning():
    runner = make_runner("lstm", rows=5, steps=9)
    fragments = [f for _ in range(3) for f in runner.sample()]
    learner = MemoryPPOLearner.__new__(MemoryPPOLearner)
    learner._device = CPU

    class Settings:
        gamma, lambda_, least_advantage_std, minibatch_size = 0.9, 0.8, 0.0, 18

    learner.config = Settings
    columns = learner.prepare(runner.module, collate(fragments))
    batch = rows_of(collate(fragments), slice(None), CPU)
    with torch.no_grad():
        out = runner.module.net(
            batch[Columns.OBS], batch[Columns.STATE_IN], batch["resets"]
        )  # all rows at once; prepare goes two rows at a time
    advantages, targets = gae(
        rewards=clip_reward(batch[Columns.REWARDS], "optimistic_asymmetric"),
        values=out.value,
        terminateds=batch[Columns.TERMINATEDS],
        ignored=batch[IGNORED],
        gamma=0.9,
        lambda_=0.8,
    )
    taken = ~columns[IGNORED]
    plain = advantages.numpy()[taken]
    np.testing.assert_allclose(
        columns[ADVANTAGES][taken], (plain - plain.mean()) / plain.std(), atol=1e-4
    )
    np.testing.assert_allclose(columns[TARGETS][taken], targets.numpy()[taken], atol=1e-4)
    np.testing.assert_allclose(
        columns[Columns.ACTION_DIST_INPUTS], out.policy[:, :-1].numpy(), atol=1e-4
    )
