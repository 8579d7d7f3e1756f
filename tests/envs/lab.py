"""What tests of the real engine's adapter share: the level, its actions, whole plays, the worlds' processes."""

from envs.actions import action_names

ROOMS = "rooms_select_nonmatching_object"
NINE = action_names("impala")
FORWARD, LEFT, FIRE = NINE.index("forward"), NINE.index("look_left"), NINE.index("fire")


def play(env, actions, seed):
    """Everything that is observed and paid, as bytes, for a list of actions [steps, N]."""
    obs, info = env.reset(seed=seed)
    trace = [{**obs, "position": info["position"]}]
    for action in actions:
        obs, reward, terminated, truncated, info = env.step(action)
        trace.append({**obs, "reward": reward, "over": terminated | truncated,
                      "position": info["position"]})  # fmt: skip
    return [{key: value.copy() for key, value in moment.items()} for moment in trace]


def one(trace, i):
    """World i of a trace."""
    return [{key: value[i].tobytes() for key, value in moment.items()} for moment in trace]


def pids(env):
    """The process of each world."""
    return [world._process.pid for world in env._pool.processes]
