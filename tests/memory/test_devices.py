"""On any device but the CPU, every tensor that a core makes lies beside its input: torch's meta device stands in.

It computes shapes only, and refuses, as CUDA does, to mix its tensors with those of the CPU. What needs values on the
host cannot run there: the check for NaN, "most_used" (where windows end), LSTM and GRU (where rows reset).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ct_rl.memory import build_memory
from ct_rl.memory.contract import MemoryCore

VARIANTS = {
    "convolution": ("compressive", {}),
    "mean": ("compressive", {"compression": "mean"}),
    "max": ("compressive", {"compression": "max"}),
    "dilated": ("compressive", {"compression": "dilated"}),
    "auto-encoding": ("compressive", {"compression_loss": "auto_encoding"}),
    "task's gradient": ("compressive", {"compression_loss": "none"}),
    "pyramid": ("compressive", {"overflow": "merge", "rate": 2}),
    "by time": ("compressive", {"slot_positions": "time"}),
    "gated": ("compressive", {"gated_reads": True, "near_first": True, "activation": "swiglu"}),
    "unmasked": ("compressive", {"mask_empty": False}),
    "windows cut": ("compressive", {"window_gradient": False}),
    "dropout": ("compressive", {"dropout": 0.1}),
    "transformer_xl": ("transformer_xl", {}),
    "gtrxl": ("gtrxl", {}),
}


@pytest.fixture(autouse=True)
def _only_shapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(MemoryCore, "check_state", lambda *_: None)
    with torch.fx.experimental._config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


def use(name: str, options: dict[str, object]) -> set[str]:
    """A training pass with its gradients, then acting; the kinds of device that everything is on."""
    core = build_memory(name, d_model=16, n_heads=2, **options).to("meta")
    x = torch.empty(3, 40, 16, device="meta", requires_grad=True)
    resets = torch.empty(3, 40, dtype=torch.bool, device="meta")
    out = core(x, core.initial_state(3), resets)
    (out.y.sum() + sum(out.losses.values())).backward()
    seen = [out.y, x.grad, *out.losses.values(), *(p.grad for p in core.parameters())]
    state = {key: value.clone() for key, value in out.state.items()}
    seen += [core.step(x[:, 0].detach(), state, resets[:, 0]) for _ in range(2)]
    with torch.no_grad():
        looked = core(x, state, resets, attention=True)
        seen += [looked.y, looked.attention.buckets(), *looked.state.values()]
    return {tensor.device.type for tensor in seen if tensor is not None}


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_everything_is_where_the_input_is(name: str, options: dict[str, object]) -> None:
    assert use(name, options) == {"meta"}


def test_a_tensor_left_on_the_cpu_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.arange
    monkeypatch.setattr(torch, "arange", lambda *given, device=None, **more: made(*given, **more))
    with pytest.raises(RuntimeError, match="meta"):
        use("compressive", {})
