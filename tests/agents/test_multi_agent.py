"""Two policies with memories of their own, on RLlib's stock path; the fast path says that it takes one."""

import gymnasium as gym
import numpy as np
import pytest
import torch
import tree
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.multi_agent_env_runner import MultiAgentEnvRunner
from ray.tune import register_env

from agents import MemoryIMPALAConfig, MemoryRLModule
from tests.agents.test_fragments import SMALL


class Pair(MultiAgentEnv):
    """Two agents with spaces of their own; episodes of 5 to 9 steps."""

    def __init__(self, context=None):
        super().__init__()
        self.rng = np.random.default_rng(
            0
        )  # lengths are the same each time: some fragments begin in mid-episode
        self.agents = self.possible_agents = ["cat", "dog"]
        self.observation_spaces = {
            "cat": gym.spaces.Box(-1, 1, (3,), np.float32),
            "dog": gym.spaces.Discrete(4),
        }
        self.action_spaces = {"cat": gym.spaces.Discrete(3), "dog": gym.spaces.Discrete(2)}

    def _observe(self):
        return {name: space.sample() for name, space in self.observation_spaces.items()}

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.left = int(self.rng.integers(5, 10))
        return self._observe(), {}

    def step(self, actions):
        self.left -= 1
        done = self.left == 0
        ends = {"__all__": done}
        return self._observe(), {"cat": 1.0, "dog": 0.5}, ends, {"__all__": False}, {}


def configured(config, memories):
    specs = {
        name: RLModuleSpec(
            module_class=MemoryRLModule,
            model_config={
                "memory": memory,
                "memory_options": {"d_model": 16, **SMALL[memory]},
                "around": False,
                "max_seq_len": 24,
            },
        )
        for name, memory in memories.items()
    }
    return (
        config.environment(Pair)
        .multi_agent(policies=set(memories), policy_mapping_fn=lambda agent, *_, **__: agent)
        .rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs=specs))
        .env_runners(num_env_runners=0, rollout_fragment_length=23)
        .debugging(seed=3)
    )


@pytest.mark.parametrize("stock", [IMPALAConfig, PPOConfig])
def test_two_policies_have_memories_of_their_own(stock):
    register_env("pair", Pair)
    config = configured(stock(), {"cat": "compressive", "dog": "lstm"}).environment("pair")
    runner = MultiAgentEnvRunner(config=config, worker_index=0)
    with torch.no_grad():
        for name in ("cat", "dog"):
            for parameter in runner.module[name].parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
    env = Pair()
    pipeline = config.build_learner_connector(
        gym.spaces.Dict(env.observation_spaces), gym.spaces.Dict(env.action_spaces)
    )
    if stock is PPOConfig:
        pipeline.prepend(AddOneTsToEpisodesAndTruncate())  # as PPO's learner does
    modules = config.get_multi_rl_module_spec(
        spaces=runner.get_spaces(), inference_only=False
    ).build()
    worst, dropped = {"cat": 0.0, "dog": 0.0}, {"cat": 0.0, "dog": 0.0}
    for _ in range(4):
        batches = pipeline(rl_module=modules, batch={}, episodes=runner.sample(), shared_data={})
        for name in worst:
            modules[name].load_state_dict(runner.module[name].state_dict(), strict=False)
            batch = batches[name]
            nothing = tree.map_structure(torch.zeros_like, batch[Columns.STATE_IN])
            for found, columns in (
                (worst, batch),
                (dropped, {**batch, Columns.STATE_IN: nothing}),
            ):
                with torch.no_grad():
                    out = modules[name].forward_train(columns)
                policy = modules[name].get_train_action_dist_cls()
                log_probs = policy.from_logits(out[Columns.ACTION_DIST_INPUTS]).logp(
                    batch[Columns.ACTIONS]
                )
                error = (log_probs - batch[Columns.ACTION_LOGP])[batch[Columns.LOSS_MASK].bool()]
                found[name] = max(found[name], error.abs().max().item())
    assert max(worst.values()) < 1e-5
    assert min(dropped.values()) > 1e-3


def test_the_fast_path_says_that_it_takes_one_policy():
    config = MemoryIMPALAConfig().environment(Pair)
    config.multi_agent(policies={"cat", "dog"}, policy_mapping_fn=lambda agent, *_, **__: agent)
    with pytest.raises(ValueError, match="trains one policy: use RLlib's IMPALAConfig"):
        config.validate()
