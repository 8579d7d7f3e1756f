"""The memory core as a language and speech model: data, training, evaluation, sampling.

Names are resolved when they are asked for: a command begins before torch is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ct_rl.lazy_names import lazy_names

if TYPE_CHECKING:
    from ct_rl.lm.build import build_model, core_names
    from ct_rl.lm.config import LMConfig, ModelConfig, OptimiserConfig
    from ct_rl.lm.corpus import Corpus
    from ct_rl.lm.model import LanguageModel
    from ct_rl.lm.run import load_model
    from ct_rl.lm.sampling import sample
    from ct_rl.lm.sources import open_data
    from ct_rl.lm.trainer import Trainer

_LAZY = {
    "Corpus": "corpus",
    "LMConfig": "config",
    "LanguageModel": "model",
    "ModelConfig": "config",
    "OptimiserConfig": "config",
    "Trainer": "trainer",
    "build_model": "build",
    "core_names": "build",
    "load_model": "run",
    "open_data": "sources",
    "sample": "sampling",
}

__all__ = [
    "Corpus",
    "LMConfig",
    "LanguageModel",
    "ModelConfig",
    "OptimiserConfig",
    "Trainer",
    "build_model",
    "core_names",
    "load_model",
    "open_data",
    "sample",
]

__getattr__, __dir__ = lazy_names(globals(), _LAZY)
