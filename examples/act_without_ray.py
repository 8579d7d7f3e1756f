"""A trained agent that acts without Ray, from a run's folder or one that `python -m ct_rl.export` wrote.

    python examples/act_without_ray.py runs/NAME --episodes 10
    python examples/act_without_ray.py runs/NAME --import my_module --env my_task

An agent's folder is data and imports nothing: name the module that registers an environment of your own.
"""

import argparse
import sys

import ct_rl
import envs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="a run, or an exported agent")
    parser.add_argument(
        "--env", help="what to play; when absent, what it was trained on, as evaluations play it"
    )
    parser.add_argument("--import", dest="module", help="a module that registers environments")
    parser.add_argument("--episodes", type=int, default=10)
    args = parser.parse_args()
    if args.episodes < 1:
        parser.error(f"--episodes {args.episodes}: give 1 or more")
    if args.module:
        envs.import_modules([args.module])

    agent = ct_rl.load_agent(args.folder)
    env = envs.make(args.env) if args.env else agent.make_env()
    returns = []
    for episode in range(args.episodes):
        observation, _ = env.reset(seed=episode)
        state, total, over = None, 0.0, False  # None: a memory that has seen nothing
        while not over:
            action, state = agent.act(observation, state, greedy=True)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        returns.append(total)
    print(f"{args.episodes} episodes: mean return {sum(returns) / len(returns):.2f}")
    assert "ray" not in sys.modules


if __name__ == "__main__":
    main()
