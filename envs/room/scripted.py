"""Players that read the answer from `info`: they check the level, and show what scores are possible."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.room import level


class ScriptedPlayer:
    """Walks straight to the pad, then to a stand.

    Args:
        action_names: the environment's, in order.
        choose: "right" (the non-matching object), "wrong", or "guess".
    """

    def __init__(self, action_names: list[str], choose: str = "right", seed: int = 0):
        self.number = {name: i for i, name in enumerate(action_names)}
        self.choose = choose
        self.rng = np.random.default_rng(seed)
        self.guesses: dict[tuple[int, int], int] = {}

    def act(self, info: dict[str, Any]) -> np.ndarray:
        """Actions [N] for what `info` says of N worlds."""
        return np.array([self._act(i, info) for i in range(len(info["room"]))])

    def _act(self, i: int, info: dict[str, Any]) -> int:
        target = level.PAD
        if info["room"][i] == 2:
            match = level.SIDES.index(info["match_side"][i])
            sides = {"right": 1 - match, "wrong": match}
            key = (i, int(info["trial"][i]))
            guess = self.guesses.setdefault(key, int(self.rng.integers(2)))
            target = level.CHOICE_STANDS[sides.get(self.choose, guess)]
        offset = np.array(target) - info["position"][i]
        off = np.degrees(np.arctan2(offset[1], offset[0])) - info["yaw"][i]
        off = (off + 180.0) % 360.0 - 180.0
        if abs(off) < 4.5:
            return self.number["forward"]
        return self.number["forward_look_left" if off > 0 else "forward_look_right"]
