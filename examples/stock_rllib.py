"""A memory in a stock RLlib script: RLlib's own PPO, runner and learner, with `MemoryRLModule` as the network.

    python examples/stock_rllib.py --iterations 20

docs/rllib.md says how the fast path, `MemoryPPOConfig`, differs. `with_memory(config, "gtrxl", memory=32)` makes
the spec below for you.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from agents import MemoryRLModule, check_stock

FRAGMENT = 32  # steps of one environment that are learned from at once


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=20, help="batches of 512 steps")
    args = parser.parse_args()

    spec = RLModuleSpec(
        module_class=MemoryRLModule,
        model_config={
            "memory": "gtrxl",
            "memory_options": {"d_model": 32, "n_layers": 1, "n_heads": 2, "memory": 32},
            "width": 32,
            # A step that RLlib's learner adds, and some for resets, which its runner does not count.
            "max_seq_len": FRAGMENT + 8,
        },
    )
    config = (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(
            num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=FRAGMENT
        )
        # One fragment of each environment: RLlib joins those of several rounds, and then cuts them.
        .training(train_batch_size_per_learner=16 * FRAGMENT, minibatch_size=128, lr=1e-3)
        .rl_module(rl_module_spec=spec)
        .debugging(seed=1)
    )
    check_stock(config)  # one line for a setting with which this would learn something else
    algo = config.build_algo()
    for i in range(1, args.iterations + 1):
        found = algo.train()["env_runners"].get("episode_return_mean", float("nan"))
        print(f"iteration {i}: mean return {found:.1f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        algo.save_to_path(folder)
        part = Path(folder) / "learner_group" / "learner" / "rl_module" / "default_policy"
        restored = MemoryRLModule.from_checkpoint(part)
    module = algo.get_module()
    algo.stop()

    # The same observations and the same memory give the same policy: 8 steps of one world.
    observations = torch.rand(1, 8, *module.observation_space.shape)
    memory = {key: torch.as_tensor(x)[None] for key, x in module.get_initial_state().items()}
    batch = {"obs": observations, "state_in": memory}
    before, after = (m.forward_inference(batch)["action_dist_inputs"] for m in (module, restored))
    print(f"restored: logits differ by {(before - after).abs().max():.1e} at most")


if __name__ == "__main__":
    main()
