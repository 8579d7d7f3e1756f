"""The attention film's frames: the agent's view, and beside it what its memory does, on one axis of time.

Everything right of the view shares one axis, which ends at the present step and scrolls: rewards and trials, the value,
the shares of attention at each step, and what the present step looks at, drawn where that happened.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ct_rl.action_bars import draw_choices
from ct_rl.drawing import (
    BACKGROUND,
    BAD,
    FAINT,
    GOOD,
    INK,
    PANEL,
    PLACE_NAMES,
    PLACES,
    Box,
    fill,
    fitted,
    text,
    text_width,
)
from ct_rl.evaluation import Moment
from ct_rl.insight import Attended
from ct_rl.strips import Axis, draw_looks, draw_shares, draw_value, picks, short
from ct_rl.top_map import draw_map, path_breaks
from ct_rl.video import as_rgb

WIDTH, HEIGHT = 1280, 720
_VIEW = (640, 480)
_THUMB = (114, 86)
_KEPT = 4096  # small pictures of an episode, the newest
_LEFT, _RIGHT = 656, 1266  # of the memory's side
_PLOT = 720  # where its axis of time begins


class AttentionFilm:
    """Draws moments in their order; each call is one frame.

    Args:
        memory: the memory's name.
        horizon: steps that the memory can reach; None where it has no bound, or no attention.
        outlines: polygons for the map.
    """

    def __init__(
        self,
        memory: str,
        horizon: int | None,
        outlines: Sequence[Sequence[tuple[float, float]]] = (),
    ):
        self.memory = memory
        self.outlines = [np.asarray(outline, np.float64) for outline in outlines]
        self.axis = Axis(_PLOT, _RIGHT, min(max(horizon or 120, 60), 480))
        self._begin(0)

    def _begin(self, episode: int) -> None:
        self.episode = episode
        self.values: list[float] = []
        self.shares: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.trials: list[int | None] = []
        self.path: list[np.ndarray] = []
        self.path_steps: list[int] = []
        self.small: dict[int, np.ndarray] = {}
        self.last: Moment | None = None

    def compose(self, moment: Moment) -> np.ndarray:
        """The frame of a moment: uint8 [720, 1280, 3]."""
        if moment.episode != self.episode:
            self._begin(moment.episode)
        picture = as_rgb(moment.picture)
        self._note(moment, picture)
        frame = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
        frame[: _VIEW[1], : _VIEW[0]] = fitted(picture, *_VIEW)
        self._below(frame, moment)
        self._beside(frame)
        return frame

    def _note(self, moment: Moment, picture: np.ndarray) -> None:
        insight = moment.insight
        if insight is None:  # the end: its reward belongs to the last step that was acted on
            if self.rewards:
                self.rewards[-1] += moment.reward
            return
        self.rewards.append(moment.reward)
        self.last = moment
        self.values.append(insight.value)
        self.trials.append(insight.trial)
        if insight.look is not None:
            self.shares.append(insight.look.shares)
        if insight.position is not None:
            self.path.append(insight.position)
            self.path_steps.append(moment.step)
        self.small[moment.step] = fitted(picture, *_THUMB)
        self.small.pop(moment.step - _KEPT, None)

    @property
    def _look(self) -> Attended | None:
        """Of the present step; at an episode's end of the last one."""
        insight = self.last.insight if self.last else None
        return insight.look if insight else None

    def _below(self, frame: np.ndarray, moment: Moment) -> None:
        """What belongs to the moment: counts, the policy, the map."""
        y = _VIEW[1] + 8
        insight = self.last.insight if self.last else None
        cells = [f"episode {moment.episode}", f"step {moment.step}"]
        if insight is not None and insight.trial is not None:
            cells.append(f"trial {insight.trial + 1}")
        cells.append(f"return {moment.total:g}")
        x = 12
        for words in cells:
            text(frame, words, (x, y), 15, bold=words.startswith("return"))
            x += text_width(words, 15, words.startswith("return")) + 22
        if moment.reward:
            color = GOOD if moment.reward > 0 else BAD
            text(frame, f"reward {moment.reward:+g}", (x, y), 15, color, bold=True, most=628 - x)
        if insight is None:
            return
        mapped = len(self.path) > 0
        width = 370 if mapped else 616
        discrete = all(len(choice) == 2 for choice in insight.choices)
        title = "probabilities of actions" if discrete else "actions: mean \u00b1 deviation"
        title = "episode over: the last policy" if moment.last else title
        text(frame, title, (12, y + 26), 12, FAINT)
        draw_choices(frame, (12, y + 46, width, HEIGHT - y - 52), insight.choices, moment.taken)
        if mapped:
            box = (400, y + 46, 232, HEIGHT - y - 56)
            title = "map" if insight.look is None else "map, and what it looks at"
            text(frame, title, (400, y + 26), 12, FAINT)
            self._map(frame, box, insight.yaw)

    def _map(self, frame: np.ndarray, box: Box, yaw: float | None) -> None:
        path, look, marks = np.stack(self.path), self._look, []
        if look is not None:
            where = dict(zip(self.path_steps, self.path, strict=True))
            for n in picks(look, look.mean, self.now, self.axis.span):
                step = int(look.middle[n])
                if step in where:
                    marks.append((where[step], PLACES[look.kind[n]]))
        trials = [self.trials[step] for step in self.path_steps]
        breaks = path_breaks(path, trials)
        draw_map(frame, box, path, breaks, yaw=yaw, outlines=self.outlines, marks=marks)

    @property
    def now(self) -> int:
        """The present step; at an episode's end the last one."""
        return self.last.step if self.last else 0

    def _beside(self, frame: np.ndarray) -> None:
        look, axis = self._look, self.axis
        text(frame, "memory: " + self.memory, (_LEFT, 8), 16, bold=True, most=240)
        if look is not None:
            x = _RIGHT
            for kind in reversed(range(3)):
                x -= text_width(PLACE_NAMES[kind], 12)
                text(frame, PLACE_NAMES[kind], (x, 11), 12)
                fill(frame, (x - 16, 13, 11, 11), PLACES[kind])
                x -= 32
        value = (40, 62) if look is not None else (60, 260)
        text(frame, "value", (_LEFT, value[0] + 4), 12, FAINT)
        draw_value(frame, axis, value, self.now, self.values, self.rewards, self.trials)
        y = sum(value)
        axis.ticks(frame, y + 1)
        if look is None:
            words = f"{self.memory} has no attention: there is nothing to show of what it remembers"
            text(frame, words, (_LEFT, y + 40), 14, FAINT, most=_RIGHT - _LEFT)
            return
        y += 22
        text(frame, "share of attention, step by step", (_PLOT, y), 12, FAINT)
        text(frame, "layer", (_LEFT, y), 12, FAINT)
        y = draw_shares(frame, axis, y + 17, 84, self.now, self.shares)
        text(frame, "what this step looks at, and when that was", (_PLOT, y + 5), 12, FAINT)
        text(frame, "layer", (_LEFT, y + 5), 12, FAINT)
        y = draw_looks(frame, axis, y + 22, 110, self.now, look, look.weights)
        words = "what changes this decision: the policy without it [KL, nats]"
        text(frame, words, (_PLOT, y + 5), 12, FAINT)
        y = draw_looks(frame, axis, y + 22, 44, self.now, look, look.kl[None], unit="nats")
        axis.ticks(frame, y + 1)
        words = "looks at most [mean of layers and heads]"
        self._pictures(frame, y + 22, words, look, look.mean, "share")
        words = "changes the decision most [KL, nats]"
        self._pictures(frame, y + 150, words, look, look.kl, "nats")

    def _pictures(
        self, frame: np.ndarray, y: int, title: str, look: Attended, weight: np.ndarray, unit: str
    ) -> None:
        """The frames behind the places of greatest weight, oldest first."""
        text(frame, title, (_LEFT, y), 12, INK, bold=True)
        chosen = picks(look, weight, self.now, self.axis.span)
        if not chosen:
            text(frame, "nothing but the present", (_LEFT, y + 45), 12, FAINT)
        for column, n in enumerate(chosen):
            x, top = _LEFT + column * (_THUMB[0] + 10), y + 20
            color = PLACES[look.kind[n]]
            fill(frame, (x - 3, top - 3, _THUMB[0] + 6, _THUMB[1] + 6), color)
            step = int(look.middle[n])
            small = self.small.get(step)
            box = frame[top : top + _THUMB[1], x : x + _THUMB[0]]
            box[:] = PANEL if small is None else small
            if small is None:
                text(box, "no longer kept", (10, 34), 12, FAINT)
            trial = self.trials[step] if step < len(self.trials) else None
            said = f"\u2212{self.now - step}"
            said = f"{said} steps" if trial is None else f"trial {trial + 1}, {said}"
            much = f"{100 * weight[n]:.0f} %" if unit == "share" else short(weight[n])
            text(frame, said, (x - 2, top + _THUMB[1] + 4), 11)
            text(frame, much, (x + _THUMB[0] + 2, top + _THUMB[1] + 4), 11, align="right")
