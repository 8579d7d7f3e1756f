"""Image encoders by name: this package's, and those that others register."""

from __future__ import annotations

from gymnasium import spaces
from torch import nn

from agents.encoders.check import check_encoder
from agents.encoders.images import ResidualEncoder, SmallEncoder, SpotEncoder
from agents.errors import unknown
from ct_rl.memory.options import check_name

IMAGE_ENCODERS: dict[str, type[nn.Module]] = {
    "small": SmallEncoder,
    "spots": SpotEncoder,
    "residual": ResidualEncoder,
}
DEFAULT = "small"
_BUILT_IN = frozenset(IMAGE_ENCODERS)


def encoder_names() -> list[str]:
    """The image encoders that `build_encoder` knows."""
    return sorted(IMAGE_ENCODERS)


def register_encoder(name: str, cls: type[nn.Module]) -> None:
    """Makes an image encoder known as `name`: `--network.encoder NAME`.

    Args:
        cls: built as `cls(space, width)` for a Box [H, W, C] and called with its frames [N, H, W, C]; has `d_out`.
            A copy is asked for the features of a few frames when it is built.

    Raises:
        ValueError: for something that is no module's class, or a name that cannot be one or is another's.
    """
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"encoder {name!r} is {cls!r}: give a subclass of torch.nn.Module")
    check_name("encoder", name, cls, IMAGE_ENCODERS.get(name), _BUILT_IN)
    IMAGE_ENCODERS[name] = cls


def registration(name: str) -> type[nn.Module] | None:
    """What `name` was registered with, to be carried elsewhere; None for this package's own and the unknown."""
    return None if name in _BUILT_IN else IMAGE_ENCODERS.get(name)


def restore(name: str, found: type[nn.Module]) -> None:
    """Enters in this process what `registration` gave in another, unless the name is known here."""
    IMAGE_ENCODERS.setdefault(name, found)


def check_known(image: str) -> None:
    """Raises a ValueError that lists the names for one that is none of them."""
    if image not in IMAGE_ENCODERS:
        raise ValueError(unknown("encoder", image, encoder_names()))


def image_encoder(image: str, space: spaces.Box, width: int) -> nn.Module:
    """The encoder known as `image`, looked at where it is not this package's."""
    encoder = IMAGE_ENCODERS[image](space, width)
    if image not in _BUILT_IN:
        check_encoder(image, encoder, space)
    return encoder
