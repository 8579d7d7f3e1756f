"""Encoders: from one observation to one feature vector, for images, vectors, discrete values and Dicts."""

from agents.encoders.build import (
    Cropped,
    DictEncoder,
    build_encoder,
    encode,
    has_image,
    is_instruction,
    of_saved,
    pick,
)
from agents.encoders.images import ResidualEncoder, SmallEncoder, SpotEncoder, frame_bounds
from agents.encoders.registry import (
    DEFAULT,
    IMAGE_ENCODERS,
    encoder_names,
    register_encoder,
    registration,
    restore,
)
from agents.encoders.spots import Spots
from agents.encoders.values import (
    BitsEncoder,
    InstructionEncoder,
    OneHotEncoder,
    RewardEncoder,
    VectorEncoder,
)

__all__ = [
    "DEFAULT",
    "IMAGE_ENCODERS",
    "BitsEncoder",
    "Cropped",
    "DictEncoder",
    "InstructionEncoder",
    "OneHotEncoder",
    "ResidualEncoder",
    "RewardEncoder",
    "SmallEncoder",
    "SpotEncoder",
    "Spots",
    "VectorEncoder",
    "build_encoder",
    "encode",
    "encoder_names",
    "frame_bounds",
    "has_image",
    "is_instruction",
    "of_saved",
    "pick",
    "register_encoder",
    "registration",
    "restore",
]
