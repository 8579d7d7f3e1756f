"""What can be set in the room task: plain values, checked once."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any

from envs.actions import action_vectors

FRAMES_PER_SECOND = 60  # the level counts 60 frames a second; each lasts 16 ms of engine time
N_OBJECTS = 36


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_TYPES = {
    "int": (_is_int, "a whole number"),
    "int | tuple[int, int]": (
        lambda value: (
            _is_int(value)
            or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_int, value)))
        ),
        "a whole number, or two (lo, hi)",
    ),
    "float": (_is_number, "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "str": (lambda value: isinstance(value, str), "a word"),
    "tuple[float, float]": (
        lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)),
        "two numbers (lo, hi)",
    ),
}


@dataclass(frozen=True)
class RoomSettings:
    """Settings of the room task; the defaults are the level as DMLab-30 has it.

    objects: how many of the 36 objects are in play (2 to 36), the most different ones first.
    match_per_trial: draw the match anew for every trial, not for every episode: what was remembered must be rewritten.
    seconds: episode length in game time; 12 s are 720 frames.
    action_repeat: frames an action lasts.
    height, width: frame size in pixels, multiples of 4.
    actions: "impala" (9) or "extended" (15).
    spawn: range (lo, hi) of the spawn's x in DMLab units, drawn anew for each trial.
    delay: agent steps for which a door keeps the second room closed after arrival, or a range (lo, hi) of them, both
        ends included, drawn anew for each arrival.
    room_scale: factor on the plan of both rooms; objects and the player keep their size.
    object_scale: factor on the size of the objects; 1.4 is the size that this room had at first.
    growth: objects grow in the first second of a trial, as the level's do.
    hud: show the level's head-up display: health, ammunition, score and the seconds left.
    distractor: show a third object, drawn anew for each trial, out of reach over the way into the second hall.
    textures: "level", or "random" for walls and floors drawn anew for each episode.
    stagger: cut the first episodes short, each world's by another share, so that worlds do not run in step:
        a learner's batch then holds every part of an episode.
    depth: also observe distances, "depth" uint8 [height, width, 1].
    frame_only: observe the frame alone instead of a dict with last reward and last action.
    """

    objects: int = N_OBJECTS
    match_per_trial: bool = False
    seconds: float = 12.0
    action_repeat: int = 4
    height: int = 72
    width: int = 96
    actions: str = "impala"
    spawn: tuple[float, float] = (-232.0, -232.0)
    delay: int | tuple[int, int] = 0
    room_scale: float = 1.0
    object_scale: float = 1.0
    growth: bool = True
    hud: bool = True
    distractor: bool = False
    textures: str = "level"
    stagger: bool = False
    depth: bool = False
    frame_only: bool = False

    def __post_init__(self) -> None:
        spawn = (self.spawn, self.spawn) if _is_number(self.spawn) else self.spawn
        object.__setattr__(self, "spawn", tuple(spawn) if isinstance(spawn, list) else spawn)
        if isinstance(self.delay, list):
            object.__setattr__(self, "delay", tuple(self.delay))
        for field in dataclasses.fields(self):
            value, (fits, wanted) = getattr(self, field.name), _TYPES[str(field.type)]
            if not fits(value):
                raise ValueError(f"{field.name}={value!r}: expected {wanted}")
        action_vectors(self.actions)
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < 4 or size % 4:
                raise ValueError(f"{name}={size!r} is not a positive multiple of 4, as DMLab needs")
        checks = (
            (2 <= self.objects <= N_OBJECTS, "objects", f"2 to {N_OBJECTS}"),
            (self.seconds > 0, "seconds", "more than 0"),
            (self.action_repeat >= 1, "action_repeat", "1 or more"),
            (
                0 <= self.delays[0] <= self.delays[1],
                "delay",
                "0 or more steps, or (lo, hi) with 0 <= lo <= hi",
            ),
            (0.75 <= self.room_scale <= 4, "room_scale", "0.75 to 4"),
            (0.25 <= self.object_scale <= 2, "object_scale", "0.25 to 2"),
            (self.textures in ("level", "random"), "textures", "'level' or 'random'"),
            (
                not (self.depth and self.frame_only),
                "depth",
                "frame_only=False beside it: a lone frame has no depth",
            ),
        )
        for fine, name, wanted in checks:
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {wanted}")
        # A player, who does not grow with the room, touches neither the west wall nor the pad's trigger.
        low, high = -256 + 15 / self.room_scale, 64 - 39 / self.room_scale
        if not low <= self.spawn[0] <= self.spawn[1] <= high:
            raise ValueError(
                f"spawn={self.spawn!r}: expected (lo, hi) with {low:g} <= lo <= hi <= {high:g}"
                + (f" at room_scale={self.room_scale:g}" if self.room_scale != 1 else "")
            )

    def as_dict(self) -> dict[str, Any]:
        """Every setting by name, in plain values that a YAML file can hold."""
        plain = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @property
    def delays(self) -> tuple[int, int]:
        """The range of `delay`."""
        return self.delay if isinstance(self.delay, tuple) else (self.delay, self.delay)

    @property
    def frames(self) -> int:
        """Episode length in frames."""
        return max(1, round(self.seconds * FRAMES_PER_SECOND))

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> RoomSettings:
        """Settings from keywords; raises TypeError that names the nearest setting to a wrong one."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in kwargs:
            if name not in names:
                near = difflib.get_close_matches(name, names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(names)}"
                raise TypeError(f"unknown setting {name!r} of the room task: {hint}")
        return cls(**kwargs)
