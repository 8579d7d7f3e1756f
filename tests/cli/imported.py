"""What most commands import, for the process that `forked` forks them from."""

import os

from ct_rl.ray_session import quiet_ray

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # what would start Ray unasked is an error
quiet_ray()  # before anything else imports Ray

import matplotlib.backends.backend_agg  # noqa: E402
import matplotlib.figure  # noqa: E402, F401
import ray._private.node  # noqa: E402, F401
import torch._dynamo  # noqa: E402, F401

import agents.rllib.appo  # noqa: E402
import agents.rllib.ppo  # noqa: E402
import agents.rllib.runner  # noqa: E402, F401
import ct_rl.agent  # noqa: E402
import ct_rl.algorithm  # noqa: E402
import ct_rl.evaluation  # noqa: E402
import ct_rl.trainer  # noqa: E402
import ct_rl.video  # noqa: E402, F401
import envs  # noqa: E402, F401
