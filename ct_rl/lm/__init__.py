"""The memory core as a language and speech model: data, training, evaluation, sampling."""

from ct_rl.lm.build import build_model, core_names
from ct_rl.lm.config import LMConfig, ModelConfig, OptimiserConfig
from ct_rl.lm.corpus import Corpus
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.run import load_model
from ct_rl.lm.sampling import sample
from ct_rl.lm.sources import open_data
from ct_rl.lm.trainer import Trainer

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
