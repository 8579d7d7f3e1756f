"""A Tune sweep over the compression rate: the same slots hold more of the past, and less of each step.

    python examples/tune_sweep.py --rates 1 2 4 --steps 60000

With window, memory and compressed memory of 4 each, one layer reaches 8 + 4 rate steps back. The cue of `recall` lies
one step more back than --delay, which is 16 here unless told: rate 4 reaches it, rates 1 and 2 do not.
"""

import argparse

import own_environment
from ray import tune

from agents import MemoryPPO


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--delay", type=int, default=16, help="empty steps after the cue")
    parser.add_argument("--steps", type=int, default=60_000, help="agent steps of each trial")
    parser.add_argument("--folder", help="where Tune writes; ~/ray_results when absent")
    args = parser.parse_args()

    config = own_environment.small_config(
        "compressive",
        d_model=32, n_layers=1, n_heads=2, window=4, memory=4, compressed=4,
        rate=tune.grid_search(args.rates),
    )  # fmt: skip
    config.environment("recall", env_config={"delay": args.delay})
    run = tune.RunConfig(
        stop={"num_env_steps_sampled_lifetime": args.steps}, storage_path=args.folder, verbose=0
    )
    results = tune.Tuner(MemoryPPO, param_space=config, run_config=run).fit()
    for result in results:
        rate = result.config["network_settings"]["memory_options"]["rate"]
        found = result.metrics["env_runners"]["episode_return_mean"]
        print(f"rate {rate}: {8 + 4 * rate} steps seen, mean return {found:.2f}")


if __name__ == "__main__":
    main()
