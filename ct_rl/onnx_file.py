"""An agent's acting step as an ONNX file: observation, resets and memory in, action and the next memory out.

Inputs, each with the batch first: `observation` (or `observation.PART` for every part of a Dict), `resets` (bool [B],
True where an episode begins), and `memory.NAME`, all zeros at first. Outputs: `action` (the likeliest, as the
environment takes it), `policy` (the parameters of the action's distribution), `value`, and `next_memory.NAME`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.actor_critic import ActorCritic, Observation
from ct_rl.agent import Agent
from ct_rl.errors import UserError, one_line

_STEPS = 200  # of the check, beside as many as a memory reaches
_MOST_STEPS = 2000
_ROWS = 2
_FAR, _SHARE = (
    1e-4,
    1e-3,
)  # how far torch and onnxruntime may be apart: absolute, and of the number itself


@dataclass(frozen=True)
class OnnxFile:
    """The file's bytes, and what was found about it.

    Attributes:
        any_batch: whether it takes batches of any size; else of one row.
        steps: how many steps were compared with torch; apart: the largest difference of policies and values there.
    """

    content: bytes
    any_batch: bool
    steps: int
    apart: float


def to_onnx(agent: Agent) -> OnnxFile:
    """The acting step of an agent, compared with torch over an episode and more.

    Raises:
        UserError: where a package is missing, the network cannot be traced, or the file acts otherwise than torch.
    """
    require_packages()
    step = _Step(agent.net, agent.observation_space)
    content, any_batch = _traced(step)
    steps, apart = _compare(content, step, _ROWS if any_batch else 1)
    return OnnxFile(content, any_batch, steps, apart)


def require_packages() -> None:
    """Raises UserError where what --onnx needs is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--onnx needs the package {error.name}: pip install 'ct_rl[onnx]'"
        ) from None


class _Step(nn.Module):
    """`ActorCritic.step` as a function of plain tensors, with the memory among inputs and outputs."""

    def __init__(self, net: ActorCritic, observation_space: gym.Space):
        super().__init__()
        self.net, self.observation_space = net, observation_space
        self.seen = tuple(name for name, _ in _parts(observation_space))
        self.memory = tuple(net.initial_state(1))

    @property
    def inputs(self) -> list[str]:
        return [*self.seen, "resets", *(f"memory.{name}" for name in self.memory)]

    @property
    def outputs(self) -> list[str]:
        return ["action", "policy", "value", *(f"next_memory.{name}" for name in self.memory)]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        seen, (resets, *memory) = inputs[: len(self.seen)], inputs[len(self.seen) :]
        observation = _assembled(self.observation_space, dict(zip(self.seen, seen, strict=True)))
        state = dict(zip(self.memory, memory, strict=True))
        policy, value, after = self.net.pure_step(observation, state, resets)
        action = _for_env(self.net.action_space, self.net.distribution(policy).mode())
        return action, policy, value, *(after[name] for name in self.memory)


def _traced(step: _Step) -> tuple[bytes, bool]:
    """The file's bytes, and whether it takes any batch."""
    program, any_batch, why = None, True, ""
    with torch.no_grad(), _quiet():
        for rows in (_ROWS, 1):
            batch = torch.export.Dim("batch")
            given = _first_inputs(step, rows)
            shapes = (tuple({0: batch} for _ in given),) if rows > 1 else None
            try:
                program = torch.export.export(step, given, dynamic_shapes=shapes, strict=False)
            except Exception as error:  # whatever a core or an encoder does when it is traced
                why = _reason(error)
                continue
            any_batch = rows > 1
            break
        if program is not None:
            try:
                made = torch.onnx.export(
                    program, input_names=step.inputs, output_names=step.outputs, dynamo=True,
                    verbose=False, external_data=False, custom_translation_table=_translations(),
                )  # fmt: skip
                assert made is not None
                return made.model_proto.SerializeToString(), any_batch
            except Exception as error:  # an operator that ONNX has not
                why = _reason(error)
    memory = type(step.net.core).__name__
    raise UserError(f"--onnx: the network with {memory} cannot be written as ONNX: {why}")


def _reason(error: Exception) -> str:
    """The cause's own first words; torch's advice around them is for its developers."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return one_line(error)[:200]


def _compare(content: bytes, step: _Step, rows: int) -> tuple[int, float]:
    """Plays both on the same random observations, each with its own memory; the steps, and how far they were apart."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # a type or an operator that onnxruntime has not
        core = type(step.net.core).__name__
        raise UserError(
            f"--onnx: onnxruntime cannot run the network with {core}: {_reason(error)}"
        ) from None
    net, space = step.net, step.observation_space
    space.seed(0)
    steps = _STEPS + min(net.core.context_length or 0, _MOST_STEPS)
    state = net.initial_state(rows)
    memory = {f"memory.{name}": value.numpy() for name, value in net.initial_state(rows).items()}
    apart = 0.0
    for t in range(steps):
        batch = [dict(_parts(space, _tame(space.sample()))) for _ in range(rows)]
        seen = {name: np.stack([row[name] for row in batch]) for name in step.seen}
        resets = np.array([t == 0, t in (0, steps // 2)][-rows:])
        out = dict(
            zip(step.outputs, session.run(None, {**seen, "resets": resets, **memory}), strict=True)
        )
        memory = {name: out[f"next_{name}"] for name in memory}
        observation = _assembled(space, {name: torch.as_tensor(x) for name, x in seen.items()})
        policy, value = net.step(observation, state, torch.as_tensor(resets))
        action = _for_env(
            net.action_space, net.distribution(torch.from_numpy(out["policy"])).mode()
        )
        for name, ours, theirs in (
            ("policy", policy, out["policy"]),
            ("value", value, out["value"]),
            ("action", action, out["action"]),
            *((name, state[name.removeprefix("memory.")], memory[name]) for name in memory),
        ):
            mine = ours.numpy()
            if not np.allclose(mine, theirs, rtol=_SHARE, atol=_FAR):
                far = float(np.abs(mine.astype(np.float64) - theirs).max())
                raise UserError(
                    f"--onnx: onnxruntime acts otherwise than torch: its {name} is {far:g} away in step {t}; "
                    "nothing is written"
                )
            if name in ("policy", "value"):
                apart = max(apart, float(np.abs(mine - theirs).max()))
    return steps, apart


def _first_inputs(step: _Step, rows: int) -> tuple[Tensor, ...]:
    one = dict(_parts(step.observation_space, step.observation_space.sample()))
    seen = [torch.as_tensor(np.stack([one[name]] * rows)) for name in step.seen]
    state = step.net.initial_state(rows)
    return (*seen, torch.ones(rows, dtype=torch.bool), *(x.clone() for x in state.values()))


def _parts(
    space: gym.Space, value: Any = None, name: str = "observation"
) -> Iterator[tuple[str, Any]]:
    """The parts of an observation by the names of the file's inputs."""
    if isinstance(space, spaces.Dict):
        for key, part in space.items():
            yield from _parts(part, None if value is None else value[key], f"{name}.{key}")
    else:
        yield name, value if value is None else np.asarray(value, space.dtype)


def _assembled(
    space: gym.Space, parts: Mapping[str, Tensor], name: str = "observation"
) -> Observation:
    """The observation that has these parts."""
    if isinstance(space, spaces.Dict):
        return {key: _assembled(part, parts, f"{name}.{key}") for key, part in space.items()}  # type: ignore[misc]
    return parts[name]


def _tame(value: Any) -> Any:
    """A sample without the huge numbers of spaces that have no real bounds."""
    if isinstance(value, dict):
        return {key: _tame(part) for key, part in value.items()}
    return np.clip(value, -10, 10) if np.asarray(value).dtype.kind == "f" else value


def _for_env(space: gym.Space, action: Tensor) -> Tensor:
    """`agents.distributions.for_env` in torch, for a batch."""
    if isinstance(space, spaces.Discrete):
        return action + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        return action + torch.as_tensor(space.start)
    assert isinstance(space, spaces.Box)
    low, high = (torch.as_tensor(x.astype(np.float64)) for x in (space.low, space.high))
    value = action.double()
    if np.isfinite([space.low, space.high]).all():  # a trace must not ask tensors
        inside = (value.clamp(-1.0, 1.0) + 1.0) / 2.0
        value = low * (1.0 - inside) + high * inside
    else:
        value = torch.minimum(torch.maximum(value, low), high)
    exact = value if np.dtype(space.dtype).kind == "f" else value.round()
    return exact.to(getattr(torch, np.dtype(space.dtype).name))


def _translations() -> dict[Any, Any]:
    """What torch's exporter has no translation for."""
    from onnxscript import opset18

    op: Any = opset18  # its stubs ask for types that a traced value has not

    def sort_stable(self: Any, stable: Any = None, dim: int = -1, descending: bool = False) -> Any:
        size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))
        # Of equal numbers TopK gives the one that stands first.
        return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.aten.sort.stable: sort_stable}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what torch's exporter says to its developers off the screen."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
