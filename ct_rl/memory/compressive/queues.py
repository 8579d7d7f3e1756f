"""Queues of compressed slots: which slots exist, where they lie, and how far away they are.

Slots are numbered in their episode, per queue, in the order in which they are made; a queue keeps its newest in a
ring (number j at place j mod size). One queue that drops its oldest is the paper's compressed memory. The pyramid
has several: when one is full, its oldest c slots are compressed once more into one slot of the next, coarser queue,
and the coarsest folds its oldest slots into one running slot, so that nothing ever falls off. How many slots each
queue has made, and which are left, follows from the number that the first one has made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Queue:
    """One queue.

    Attributes:
        size: slots that it keeps.
        span: steps that one slot covers.
        merge: c, how many of its oldest are compressed into one when it is full; 0 drops the oldest.
        folds: whether they are compressed into one running slot, made of itself and the next c - 1.
        running: c, where this queue is that running slot.
    """

    size: int
    span: int
    merge: int = 0
    folds: bool = False
    running: int = 0

    def passed_on(self, made: Tensor) -> Tensor:
        """How many slots it has made others of, when it has itself made `made`."""
        if not self.merge:
            return torch.zeros_like(made)
        over = made - self.size
        if not self.folds:
            return (over + self.merge - 1).clamp(min=0) // self.merge
        folds = (over + self.merge - 3).clamp(min=0) // (self.merge - 1)
        return torch.where(over > 0, folds.clamp(min=1), 0)

    def first(self, made: Tensor) -> Tensor:
        """The number of the oldest slot that it keeps."""
        if not self.merge:
            return (made - self.size).clamp(min=0)
        passed = self.passed_on(made)
        if not self.folds:
            return passed * self.merge
        return torch.where(passed > 0, passed * (self.merge - 1) + 1, 0)

    def parts(self, number: Tensor) -> Tensor:
        """[..., c]: of which of this queue's slots the slot `number` of the next is made; -1: of its forerunner."""
        c = self.merge
        each = torch.arange(c, device=number.device)
        if not self.folds:
            return number[..., None] * c + each
        later = number[..., None] * (c - 1) + each
        return torch.where((number[..., None] > 0) & (each == 0), -1, later)

    def newest_step(self, number: Tensor) -> Tensor:
        """The newest step that a slot covers, counted from the first step of slot 0."""
        if self.running:
            number = (number + 1) * (self.running - 1)
        return (number + 1) * self.span - 1


def levels(queues: tuple[Queue, ...], made: Tensor) -> Iterator[tuple[Queue, Tensor, Tensor]]:
    """Each queue, the first slot that it keeps and how many it has made, from what the first one has made."""
    for queue in queues:
        yield queue, queue.first(made), made
        made = queue.passed_on(made)


def ring_number(made: Tensor, size: int) -> Tensor:
    """[..., size]: which slot each place of a ring holds that has taken `made`; negative where none."""
    newest = made[..., None] - 1
    return newest - (newest - torch.arange(size, device=made.device)) % size


class Distance(NamedTuple):
    """How far a slot is from a query.

    Attributes:
        first: the least distance, which is counted as 0.
        reach: distances stop at reach - 1.
        by_time: steps since the newest step that the slot covers; else the order of slots, newest first.
    """

    first: int
    reach: int
    by_time: bool

    def of(self, queue: Queue, number: Tensor, latest: Tensor, origin: Tensor) -> Tensor:
        """Distances [B, T, n] of slots from queries, counted from the least on.

        Args:
            number: [B, n], the slots.
            latest: [B, T], what a slot's number is taken from to give its rank among all that a query sees, 1 for
                the newest.
            origin: [B, T], what the distance of a slot of rank 0, or of step 0, is.
        """
        if self.by_time:
            far = (origin - self.first)[..., None] - queue.newest_step(number)[:, None]
        else:
            far = (origin + latest - self.first)[..., None] - number[:, None]
        return far.clamp_(0, self.reach - 1 - self.first)


@dataclass
class Slots:
    """Slots that are made in a call, G a row.

    Attributes:
        number: [B, G], in the episode; start: [B, G], where on the timeline their episode began.
        there: bool [B, G]; block: [B, G], with which block they are made.
    """

    number: Tensor
    start: Tensor
    there: Tensor
    block: Tensor


@dataclass
class QueuePlan:
    """One queue in a call: its ring of S slots, then the G new ones.

    Attributes:
        hidden: bool [B, T, S + G], which a query may NOT see; distance: int64, how far they are, from the least
            distance on.
        number: [B, S + G], the slots; latest: [B, T], see `Distance`.
        new: what is made in the call.
        source: [B, G, c], of which slots of the queue before (its ring, then its new ones) each is made; for the
            running slot, followed by its own ring and its forerunners of the call. None for the first queue.
        next_source: [B, S], which slot each place of the next ring takes; next_there: whether there is one.
    """

    hidden: Tensor
    distance: Tensor
    number: Tensor
    latest: Tensor
    new: Slots
    next_source: Tensor
    next_there: Tensor
    source: Tensor | None = None


def plan_queues(
    queues: tuple[Queue, ...],
    new: Slots,
    made: tuple[Tensor, Tensor, Tensor],
    start: tuple[Tensor, Tensor],
    origin: Tensor,
    distance: Distance,
) -> tuple[QueuePlan, ...]:
    """Plans a call for all queues.

    Args:
        new: what the first queue makes; within an episode without gaps.
        made: what the first queue has made before the call [B], after it [B], and for each query [B, T].
        start: where the episode before the call began [B], and each query's [B, T], on the timeline.
        origin: [B, T], what distances are counted from.
    """
    before, query_start = start
    last_start = query_start[:, -1]
    query_episode = query_start.clamp(min=-1) * _APART  # only the state's began before the timeline
    newer = torch.zeros_like(made[2])
    plans: list[QueuePlan] = []
    source = None
    states = zip(*(levels(queues, m) for m in made), strict=True)
    for (queue, _, had), (_, first_after, has), (_, first, seen) in states:
        held = ring_number(had, queue.size)
        held_start = torch.where(held >= queue.first(had)[:, None], before[:, None], _NOWHERE)
        number = torch.cat([held, new.number], 1)  # (B, S + G)
        episode = torch.cat([held_start, torch.where(new.there, new.start, _NOWHERE)], 1)
        # One number for slot and episode, so that a range of them is what a query sees.
        named = episode.clamp(min=-1) * _APART + number
        oldest = (query_episode + first)[..., None]
        newest = (query_episode + seen)[..., None]
        after = ring_number(has, queue.size)
        in_call = (after >= had[:, None]) | (last_start != before)[:, None]
        from_end = _end_of(new, last_start) - (has[:, None] - after)
        plan = QueuePlan(
            hidden=(named[:, None] < oldest) | (named[:, None] >= newest),
            distance=distance.of(queue, number, newer + seen, origin),
            number=number,
            latest=newer + seen,
            new=new,
            source=source,
            next_source=torch.where(
                in_call, queue.size + from_end, torch.arange(queue.size, device=after.device)
            ).clamp(min=0),
            next_there=after >= first_after[:, None],
        )
        plans.append(plan)
        newer = newer + seen - first
        if queue.merge:
            new, source = pass_on(queue, new, had, before)
    return tuple(plans)


_APART = 2**40  # more than an episode makes slots
_NOWHERE = 2**20  # an episode that no query is in: it would begin after the call


def _end_of(new: Slots, start: Tensor) -> Tensor:
    """[B, 1]: the place after the last new slot of the episode that began at `start` [B]."""
    own = new.there & (new.start == start[:, None])
    place = torch.arange(1, own.shape[1] + 1, device=own.device)
    return (own * place).amax(1, keepdim=True)


def pass_on(queue: Queue, new: Slots, had: Tensor, before: Tensor) -> tuple[Slots, Tensor]:
    """What the next queue makes of this one's slots, and of which.

    Args:
        new: what this one makes in the call, G slots.
        had: [B], what it had made before; before: [B], where that episode began.

    Returns:
        The next one's new slots, G', and their `QueuePlan.source` [B, G', c].
    """
    rows, size = new.number.shape
    device = new.number.device
    passed = queue.passed_on(new.number + 1)  # (B, G): made of them once this slot is there
    makes = new.there & (passed > queue.passed_on(new.number))
    count = size // (queue.merge - 1 if queue.folds else queue.merge) + 1
    order = torch.where(makes, (makes.cumsum(1) - 1).clamp(max=count), count)
    place = torch.full((rows, count + 1), -1, device=device)
    place = place.scatter(1, order, torch.arange(size, device=device).expand(rows, -1))[:, :count]
    at = place.clamp(min=0)
    own = Slots(
        number=torch.where(place >= 0, passed.gather(1, at) - 1, 0),
        start=new.start.gather(1, at),
        there=place >= 0,
        block=new.block.gather(1, at),
    )
    parts = queue.parts(own.number)  # (B, G', c)
    back = new.number.gather(1, at)[..., None] - parts
    old = (own.start == before[:, None])[..., None] & (parts < had[:, None, None])
    source = torch.where(old, parts % queue.size, queue.size + at[..., None] - back)
    if queue.folds:
        # The forerunner: the state's running slot, or the one made before in this call.
        since = torch.arange(count, device=device)
        first = (own.start == before[:, None]) & (own.number == queue.passed_on(had)[:, None])
        forerunner = size + queue.size + torch.where(first, 0, since)
        source = torch.where(parts < 0, forerunner[..., None], source)
    return own, torch.where(own.there[..., None], source, 0)
