"""Players that read `info`, for tests, videos and score checks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_DEGREES = 8.4375  # one step of look in the nine-action set


class ScriptedPlayer:
    """Walks straight to the pad, then to an object: the right one, or one guessed by a coin.

    `action_names` are the environment's; `act(infos)` takes a vector environment's infos and gives actions int64 [N].
    `scale` is the environment's room_scale.
    """

    def __init__(
        self,
        action_names: Sequence[str],
        choose: str = "right",
        seed: int = 0,
        scale: float = 1.0,
    ) -> None:
        if choose not in ("right", "guess", "wrong"):
            raise ValueError(f"unknown choice {choose!r}: use right, guess or wrong")
        self.choose, self.scale = choose, scale
        self._rng = np.random.default_rng(seed)
        self._index = {name: k for k, name in enumerate(action_names)}
        self._coins: dict[tuple[int, int], bool] = {}

    def act(self, infos: dict[str, Any]) -> np.ndarray:
        n = len(infos["room"])
        return np.array([self._one(infos, i) for i in range(n)])

    def _one(self, infos: dict[str, Any], i: int) -> int:
        x, y = infos["position"][i] / self.scale
        target = (64.0, -64.0)
        if infos["room"][i] == 2:
            target = (582.0, 52.0) if self._left(infos, i) else (582.0, -180.0)
        bearing = np.degrees(np.arctan2(target[1] - y, target[0] - x)) - infos["yaw"][i]
        bearing = (bearing + 180) % 360 - 180
        if abs(bearing) > 30:
            return self._index["look_left" if bearing > 0 else "look_right"]
        if abs(bearing) > _DEGREES / 2:
            return self._index["forward_look_left" if bearing > 0 else "forward_look_right"]
        return self._index["forward"]

    def _left(self, infos: dict[str, Any], i: int) -> bool:
        right_is_left = str(infos["match_side"][i]) == "right"
        if self.choose == "guess":
            trial = int(infos["trial"][i])
            if trial == 0 and infos["teleports"][i] == 1 and (i, 1) in self._coins:
                self._coins = {key: coin for key, coin in self._coins.items() if key[0] != i}
            return self._coins.setdefault((i, trial), bool(self._rng.integers(2)))
        return right_is_left == (self.choose == "right")
