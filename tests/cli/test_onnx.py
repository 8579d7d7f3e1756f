"""policy.onnx acts as torch does, for every memory; what cannot be written is one line."""

import importlib.util
import re
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic
from agents.encoders import encoder_names
from ct_rl import export, onnx_file
from ct_rl.agent import Agent
from ct_rl.errors import UserError
from ct_rl.memory import memory_names
from ct_rl.memory.registry import memory_class

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None
    or importlib.util.find_spec("onnxscript") is None,
    reason="needs the extra onnx",
)
OBSERVATION = gym.spaces.Dict(
    frame=gym.spaces.Box(0, 255, (36, 40, 3), np.uint8),
    last_reward=gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
    last_action=gym.spaces.Discrete(3),
)
VECTOR = gym.spaces.Box(-1, 1, (3,), np.float32)


def agent(memory, observation=VECTOR, action=None, encoder="small", bilinear=0, **options):
    """With weights drawn anew, since at the start attention adds nothing; image encoders start random as they are."""
    torch.manual_seed(0)
    small = dict(memory_class(memory).small)
    if "n_layers" in small:
        small["n_layers"] = 1
    action = gym.spaces.Discrete(3, start=1) if action is None else action
    net = ActorCritic(observation, action, memory=memory, width=8, encoder=encoder, bilinear=bilinear,
                      memory_options={**small, "d_model": 8, **options})  # fmt: skip
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if not name.startswith("encoder.parts.frame."):
                weight.normal_(0, 0.4)
    description = {"env": "toy", "steps": 10, "network": {"memory": memory}}
    return Agent(net, observation, action, description)


MEMORIES = [
    *((name, {}) for name in memory_names()),
    ("compressive", {"compression": "most_used", "compression_loss": "none"}),
    (
        "compressive",
        {"overflow": "merge", "compression": "mean", "gated_reads": True, "activation": "swiglu"},
    ),
]


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("memory", "options"), MEMORIES, ids=str)
def test_every_memory_acts_as_in_torch(memory, options):
    made = onnx_file.to_onnx(agent(memory, **options))
    assert made.any_batch and made.steps >= 180 and made.apart < 1e-4


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("encoder", encoder_names())
def test_every_image_encoder_and_the_products_act_as_in_torch(encoder):
    made = onnx_file.to_onnx(agent("gru", OBSERVATION, encoder=encoder, bilinear=4))
    assert made.steps >= 180 and made.apart < 1e-4


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    acting = agent("gru", OBSERVATION)
    made = onnx_file.to_onnx(acting)
    (folder / export.ONNX).write_bytes(made.content)
    return folder, acting, made


@needs_onnx
@pytest.mark.slow
def test_the_loop_of_the_docs_acts_as_the_agent_does(exported, monkeypatch):
    folder, acting, _ = exported
    page = (Path(__file__).parents[2] / "docs" / "rllib.md").read_text()
    (loop,) = [
        code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "onnxruntime" in code
    ]
    assert "torch" not in loop and "ct_rl" not in loop
    seen, taken = [], []

    class Toy:
        def reset(self, seed=None):
            OBSERVATION.seed(5)
            seen.append(OBSERVATION.sample())
            return seen[-1], {}

        def step(self, action):
            taken.append(action)
            seen.append(OBSERVATION.sample())
            return seen[-1], 0.0, len(taken) == 190, False, {}

    monkeypatch.chdir(folder)
    exec(loop.replace("my_agent/", ""), {"env": Toy()})
    state, expected = None, []
    for observation in seen[:-1]:
        action, state = acting.act(observation, state, greedy=True)
        expected.append(action)
    assert taken == expected and len(set(taken)) > 1 and min(taken) >= 1


@needs_onnx
@pytest.mark.slow
def test_a_file_that_acts_otherwise_is_refused(exported, monkeypatch):
    _, acting, made = exported
    monkeypatch.setattr(onnx_file, "_traced", lambda step: (made.content, True))
    with torch.no_grad():
        acting.net.policy.bias[0] += 1.0
    with pytest.raises(
        UserError, match=r"acts otherwise than torch: its policy is .* away in step 0"
    ):
        onnx_file.to_onnx(acting)
    with torch.no_grad():
        acting.net.policy.bias[0] -= 1.0


def test_a_trace_finds_the_bounds_of_actions():
    class Actions(torch.nn.Module):
        def forward(self, action):
            return onnx_file._for_env(space, action)

    space = gym.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 9.0]), dtype=np.float32)
    given = torch.randn(3, 2)
    traced = torch.export.export(Actions(), (given,), strict=False).module()
    torch.testing.assert_close(traced(given), onnx_file._for_env(space, given))


@needs_onnx
@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.MultiDiscrete([2, 3], start=[5, 6]),
        gym.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 9.0]), dtype=np.float32),
        gym.spaces.Box(np.array([0.0, -np.inf]), np.array([np.inf, np.inf]), dtype=np.float32),
        gym.spaces.Box(0, 200, (2,), np.uint8),
    ],
    ids=str,
)
def test_actions_are_what_the_environment_takes(space):
    from agents.distributions import for_env

    drawn = (
        torch.randn(50, 2) * 2
        if isinstance(space, gym.spaces.Box)
        else torch.randint(0, 2, (50, 2))
    )
    ours = onnx_file._for_env(space, drawn).numpy()
    np.testing.assert_allclose(ours, for_env(space, drawn.numpy()), rtol=1e-6)
    assert ours.dtype == space.dtype and all(action in space for action in ours)


class Peeking(torch.nn.Module):
    """Chooses by a value, which no trace can."""

    def __init__(self, core):
        super().__init__()
        self.core, self.d_out = core, core.d_out

    def pure_step(self, x, state, resets):
        return (x if bool(x.sum() > 0) else -x), state


@needs_onnx
def test_a_memory_that_cannot_be_traced_is_one_line():
    acting = agent("identity")
    core = Peeking(acting.net.core)
    core.initial_state = acting.net.core.initial_state
    acting.net.core = core
    with pytest.raises(
        UserError, match="the network with Peeking cannot be written as ONNX"
    ) as said:
        onnx_file.to_onnx(acting)
    assert len(str(said.value)) < 350 and "\n" not in str(said.value)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'ct_rl\[onnx\]'"):
        onnx_file.require_packages()
