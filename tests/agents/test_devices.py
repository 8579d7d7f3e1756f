"""What a learner computes lies where its network does: torch's meta device, which mixes with no other, stands in."""

from __future__ import annotations

import pytest
import torch
from ray.rllib.core.columns import Columns

from agents.actor_critic import ActorCritic
from agents.fragment import IGNORED, collate, rows_of
from agents.gae import gae
from agents.rewards import clip_reward
from agents.vtrace import vtrace
from ct_rl.memory.contract import MemoryCore
from tests.agents.test_fragments import make_runner


@pytest.mark.parametrize("memory", ["compressive", "gtrxl"])
def test_a_batch_is_learned_from_on_another_device(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryCore, "check_state", lambda *_: None)  # it asks for values
    runner = make_runner(memory)
    columns = collate(runner.sample())
    net: ActorCritic = runner.module.net.to("meta")
    batch = rows_of(columns, slice(None), torch.device("meta"))
    out = net(batch[Columns.OBS], batch[Columns.STATE_IN], batch["resets"])
    policy = net.distribution(out.policy[:, :-1])
    log_rho = policy.log_prob(batch[Columns.ACTIONS]) - batch[Columns.ACTION_LOGP]
    given = {
        "rewards": clip_reward(batch[Columns.REWARDS], "optimistic_asymmetric"),
        "values": out.value,
        "terminateds": batch[Columns.TERMINATEDS],
        "ignored": batch[IGNORED],
        "gamma": 0.9,
    }
    targets, advantages = vtrace(log_rho=log_rho, **given)
    loss = (log_rho * advantages).mean() + (out.value[:, :-1] - targets).square().mean()
    loss = loss - policy.entropy().mean() + sum(out.losses.values())
    loss.backward()
    seen = [loss, *gae(lambda_=0.9, **given), *(p.grad for p in net.parameters())]
    assert {tensor.device.type for tensor in seen if tensor is not None} == {"meta"}
