"""Action sets shared by the embedded room task and DeepMind Lab."""

from __future__ import annotations

import numpy as np

# Columns: look right and look down (pixels per frame), strafe right, move forward, fire, jump, crouch.
_NINE = (
    ("forward", (0, 0, 0, 1, 0, 0, 0)),
    ("backward", (0, 0, 0, -1, 0, 0, 0)),
    ("strafe_left", (0, 0, -1, 0, 0, 0, 0)),
    ("strafe_right", (0, 0, 1, 0, 0, 0, 0)),
    ("look_left", (-20, 0, 0, 0, 0, 0, 0)),
    ("look_right", (20, 0, 0, 0, 0, 0, 0)),
    ("forward_look_left", (-20, 0, 0, 1, 0, 0, 0)),
    ("forward_look_right", (20, 0, 0, 1, 0, 0, 0)),
    ("fire", (0, 0, 0, 0, 1, 0, 0)),
)
_FIFTEEN = (
    ("forward", (0, 0, 0, 1, 0, 0, 0)),
    ("backward", (0, 0, 0, -1, 0, 0, 0)),
    ("strafe_left", (0, 0, -1, 0, 0, 0, 0)),
    ("strafe_right", (0, 0, 1, 0, 0, 0, 0)),
    ("look_left", (-10, 0, 0, 0, 0, 0, 0)),
    ("look_right", (10, 0, 0, 0, 0, 0, 0)),
    ("look_left_fast", (-60, 0, 0, 0, 0, 0, 0)),
    ("look_right_fast", (60, 0, 0, 0, 0, 0, 0)),
    ("look_down", (0, 10, 0, 0, 0, 0, 0)),
    ("look_up", (0, -10, 0, 0, 0, 0, 0)),
    ("forward_look_left", (-10, 0, 0, 1, 0, 0, 0)),
    ("forward_look_right", (10, 0, 0, 1, 0, 0, 0)),
    ("forward_look_left_fast", (-60, 0, 0, 1, 0, 0, 0)),
    ("forward_look_right_fast", (60, 0, 0, 1, 0, 0, 0)),
    ("fire", (0, 0, 0, 0, 1, 0, 0)),
)
ACTION_SETS = {"impala": _NINE, "extended": _FIFTEEN}


def action_vectors(name: str) -> np.ndarray:
    """The 7-vectors of an action set, intc [actions, 7].

    "impala" is the set of nine of IMPALA (arXiv 1802.01561), "extended" the fifteen of PopArt and R2D2.
    Raises ValueError for another name.
    """
    if name not in ACTION_SETS:
        raise ValueError(f"unknown actions {name!r}: choose one of {', '.join(ACTION_SETS)}")
    return np.array([vector for _, vector in ACTION_SETS[name]], np.intc)


def action_names(name: str) -> tuple[str, ...]:
    """The names of a set's actions, in the order of their indices."""
    action_vectors(name)
    return tuple(label for label, _ in ACTION_SETS[name])
