"""Runs by name: the paper's (Rae et al. 2019, section 5 and appendices) and small ones for two cores.

Where the paper names no size (PG-19's and speech's width, heads and MLP), ours stand in, close to its parameter counts.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ct_rl.errors import UserError, nearest
from ct_rl.lm.config import LMConfig, ModelConfig, OptimiserConfig


def _core(width: int, layers: int, heads: int, mlp: int | None, **sizes: Any) -> dict[str, Any]:
    return {"d_model": width, "n_layers": layers, "n_heads": heads, "d_ff": mlp, **sizes}


def _paper(
    data: str,
    core: dict[str, Any],
    warmup: int,
    decay: int,
    *,
    cutoffs: Sequence[int] = (),
    batch: int = 64,
    **settings: Any,
) -> LMConfig:
    return LMConfig(
        data=data,
        model=ModelConfig(options=core, cutoffs=list(cutoffs)),
        optimiser=OptimiserConfig(warmup=warmup, update_every_from=60_000),
        steps=warmup + decay,
        batch=batch,
        length=core["window"],
        precision="bfloat16",
        eval_every=5_000,
        checkpoint_every=1_000,
        eval_tokens=1_000_000,
        **settings,
    )


def _small(data: str, width: int, layers: int, steps: int, **core: Any) -> LMConfig:
    sizes = {"window": 64, "memory": 64, "compressed": 64, "rate": 4, **core}
    gates = {"gated_reads": True, "near_first": True, "activation": "swiglu"}
    return LMConfig(
        data=data,
        model=ModelConfig(options=_core(width, layers, 4, None, **sizes, **gates)),
        optimiser=OptimiserConfig(lr=1e-3, warmup=max(steps // 20, 1), clip=0.5),
        steps=steps,
        batch=16,
        length=128,
        eval_every=max(steps // 8, 1),
        checkpoint_every=max(steps // 8, 1),
        report_every=max(steps // 80, 1),
    )


PRESETS: dict[str, LMConfig] = {
    "small": _small("python", 128, 3, 1_500),
    "tiny": _small("pydoc", 64, 2, 400, window=32, memory=32, compressed=32),
    "enwik8_small": _small(
        "data/enwik8", 256, 4, 6_000, window=128, memory=128, compressed=128
    ),
    "enwik8": _paper(
        "data/enwik8", _core(1024, 24, 8, 3072, window=768, memory=768, compressed=1152, rate=3),
        4_000, 100_000, batch=128, eval_memory={"compressed": 3072},
    ),
    "enwik8_41m": _paper(
        "data/enwik8", _core(512, 12, 8, 2048, window=512, memory=512, compressed=512, rate=4),
        4_000, 100_000, batch=32, eval_memory={"compressed": 1536},
    ),
    "text8": _paper(
        "data/text8", _core(1024, 24, 8, 3072, window=768, memory=768, compressed=1152, rate=3),
        4_000, 100_000, batch=128, eval_memory={"compressed": 3072},
    ),
    "wikitext103": _paper(
        "data/wikitext103", _core(1024, 18, 16, 4096, window=512, memory=512, compressed=512, rate=4),
        16_000, 500_000, batch=128, cutoffs=(20_000, 40_000, 200_000),
        eval_memory={"memory": 500, "compressed": 1500},
    ),
    "pg19": _paper(
        "data/pg19", _core(1024, 36, 16, 4096, window=512, memory=512, compressed=512, rate=2),
        16_000, 500_000, batch=512,
    ),
    "speech": _paper(
        "data/speech", _core(336, 20, 8, 1344, window=768, memory=768, compressed=768, rate=4),
        4_000, 100_000, batch=32, sample_rate=24_000,
    ),
}  # fmt: skip


def preset(name: str) -> LMConfig:
    """A copy of the named preset; raises UserError for a name that is none."""
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(
            f"unknown preset {name!r}{nearest(name, list(PRESETS))}: choose one of {known}"
        )
    return copy.deepcopy(PRESETS[name])
