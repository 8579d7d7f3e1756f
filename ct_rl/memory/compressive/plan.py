"""Which memories a step may see, when each episode, row and cut stands elsewhere.

Let s be a step's number in its episode, W the window, M the memory, c the rate. Its boundary is
b(s) = floor(s / W) W - M. It sees its episode's steps from max(b(s), 0) to s, and the compressed slots made of the
steps before b(s). When a window ends, the boundary moves on by W, and the block of W steps that it passes becomes
W / c slots. All of that depends on s alone and on no cut, so a whole fragment is one parallel pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ct_rl.memory.compressive.queues import (
    Distance,
    Queue,
    QueuePlan,
    Slots,
    levels,
    pass_on,
    plan_queues,
)


def _floor(x: Tensor, y: int) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


@dataclass(frozen=True)
class Sizes:
    """The lengths of a compressive memory, in steps (window, memory, lookback) and slots (compressed).

    Attributes:
        lookback: steps before a block that its compression reads too.
        overflow: what becomes of the oldest slots when the queue is full: "drop", or "merge", a pyramid.
        slot_positions: a slot's distance: "order", the paper's concatenated order; "time", steps since the newest
            step that it covers; "authors", the order as if the slots stood just before the window.
        mask_empty: whether what was never filled is hidden; where it is not, an empty place is a zero, and memory
            need not be a multiple of the rate: the first slot of an episode starts with zeros.
    """

    window: int
    memory: int
    compressed: int
    rate: int
    lookback: int = 0
    overflow: str = "drop"
    slot_positions: str = "order"
    mask_empty: bool = True

    def __post_init__(self) -> None:
        for name in ("window", "memory") if self.mask_empty else ("window",):
            size = getattr(self, name)
            if self.compressed and size % self.rate:
                below, above = size - size % self.rate, size - size % self.rate + self.rate
                use = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"{name}={size} is no multiple of rate={self.rate}: use {name}={use}"
                )
        if self.overflow == "merge" and self.compressed:
            if not self.mask_empty:
                raise ValueError("overflow='merge' hides its empty slots: use mask_empty=True")
            if self.rate < 2:
                raise ValueError("overflow='merge' with rate=1 frees no slot: use rate=2 or more")
            if self.compressed < self.rate:
                raise ValueError(
                    f"compressed={self.compressed} slots cannot be merged {self.rate} at a time: "
                    f"use compressed={self.rate} or more"
                )

    @property
    def kept(self) -> int:
        """Steps that must be remembered between calls."""
        return self.window + self.memory + (self.lookback if self.compressed else 0)

    @property
    def reach(self) -> int:
        """Distances that a seen step can have, from 0."""
        return self.window + self.memory

    @property
    def block(self) -> int:
        """Slots that a window's end makes."""
        return self.window // self.rate if self.compressed else 0

    @property
    def padding(self) -> int:
        """Zeros before an episode's first step that belong to its first slot."""
        return self.memory % self.rate

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues of slots, finest first; with "drop" there is one."""
        if not self.compressed:
            return ()
        if self.overflow == "drop":
            return (Queue(self.compressed, self.rate),)
        c, left, levels = self.rate, self.compressed, []
        while left - left // 2 >= c and left // 2 >= c:  # half at this rate, the rest coarser
            levels.append(left - left // 2)
            left //= 2
        spans = [c ** (level + 1) for level in range(len(levels) + 1)]
        merging = [Queue(n, span, merge=c) for n, span in zip(levels, spans, strict=False)]
        top = Queue(left - 1, spans[-1], merge=c, folds=True)
        return (*merging, top, Queue(1, spans[-1], running=c))

    @property
    def slot_reach(self) -> int:
        """Distances that a slot can have, from 0; a merged slot's stops at the last."""
        if not self.compressed:
            return 0
        if self.slot_positions == "time":
            return self.reach + sum(q.size * q.span for q in self.queues)
        return self.reach + self.compressed

    @property
    def slot_distances(self) -> tuple[int, int]:
        """The least distance of a slot, and the greatest + 1; (0, 0) without slots."""
        if not self.compressed:
            return 0, 0
        return (1 if self.slot_positions == "authors" else self.memory + 1), self.slot_reach

    @property
    def slot_distance(self) -> Distance:
        """How slots' distances are counted, from the least on."""
        return Distance(*self.slot_distances, self.slot_positions == "time")

    def boundary(self, step: Tensor) -> Tensor:
        """b(s), the first step that is not compressed yet; negative while there is none."""
        return _floor(step, self.window) * self.window - self.memory

    def made(self, step: Tensor) -> Tensor:
        """How many slots of the first queue have ever been made for a step."""
        return _floor((self.boundary(step) + self.padding).clamp(min=0), self.rate)


@dataclass
class Blocks:
    """The blocks that leave the memory in a call, at most N, each when a window ends.

    Attributes:
        steps: [B, N, lookback + W], timeline positions; there: bool, whether that step exists.
        queries: [B, N, W], the ending window's steps, counted from the `earlier` ones; asked: bool, which of them
            are in this call and come after the block: their reading is what compression must keep.
    """

    steps: Tensor
    there: Tensor
    queries: Tensor
    asked: Tensor


@dataclass
class Absent:
    """What a query would see if its episode had been running for ever: the empty places of an unmasked memory.

    Attributes:
        steps: bool [B, T, R], which distances, farthest first.
        slots: bool [B, T, C]; distance: [B, T, C], theirs. None without compressed memory.
    """

    steps: Tensor
    slots: Tensor | None = None
    distance: Tensor | None = None


@dataclass
class Plan:
    """Everything a pass over T steps needs to know, the same for all layers.

    The timeline is the kept steps and then the T new ones, K + T positions; a query may see the last R = W + M up to
    its own.

    Attributes:
        age: [B, T], each query's step number in its episode.
        gather_kept: [B, K], where the state's ring holds the timeline's first positions.
        hidden: bool [B, T, R + T], which of the last positions a query may NOT see.
        steps: [B], steps of the running episode after the call.
        next_source: [B, K], timeline position that each place of the next ring takes; next_there: whether it
            belongs to the running episode.
        blocks, queues: what is compressed in this call; None and () without compressed memory.
        absent: the empty places that a query reads; None where they are masked.
    """

    age: Tensor
    gather_kept: Tensor
    hidden: Tensor
    steps: Tensor
    next_source: Tensor
    next_there: Tensor
    blocks: Blocks | None = None
    queues: tuple[QueuePlan, ...] = ()
    absent: Absent | None = None


def _ring_order(count: Tensor, size: int) -> Tensor:
    """Where a ring of `size` that has taken `count` items holds its last `size`, oldest first."""
    return (count[:, None] + torch.arange(size, device=count.device)) % size


def plan_pass(sizes: Sizes, step: Tensor, resets: Tensor, earlier: int = 0) -> Plan:
    """Plans a pass.

    Args:
        step: int64 [B], steps of the running episode before it.
        resets: bool [B, T].
        earlier: how many steps before it belong to the same call, W - 1 at most.
    """
    steps = resets.shape[1]
    kept, device = sizes.kept, resets.device
    position = torch.arange(kept + steps, device=device)  # timeline positions
    new = position[kept:]
    # Where each new step's episode began, on the timeline.
    began = torch.where(resets, new, torch.full_like(new, -1))
    start = began.cummax(1).values if steps > 1 else began  # (B, T); ONNX has no cummax
    start = torch.where(start < 0, (kept - step)[:, None], start)
    age = new - start  # (B, T): s of every query

    sees = torch.minimum(age, age - sizes.boundary(age))  # how far back, in steps
    distance = new[:, None] - position[None, kept - sizes.reach :]  # (T, R + T)
    hidden = (distance < 0) | (distance > sees[..., None])  # (B, T, R + T)
    last_start = start[:, -1]
    after = kept + steps - last_start  # (B): steps of the running episode, this call included
    back = _ring_order(-after, kept)  # which of the last `kept` positions each ring place takes
    plan = Plan(
        age=age,
        gather_kept=_ring_order(step, kept),
        hidden=hidden,
        steps=after,
        next_source=steps + back,
        next_there=steps + back >= last_start[:, None],
    )
    if sizes.compressed:
        _plan_slots(plan, sizes, step, start, earlier)
    if not sizes.mask_empty:
        plan.absent = absent(sizes, age)
    return plan


def absent(sizes: Sizes, age: Tensor) -> Absent:
    """The empty places that the queries at `age` [B, T] read in an unmasked memory."""
    bound = sizes.boundary(age)
    far = torch.arange(sizes.reach - 1, -1, -1, device=age.device)
    steps = (far > age[..., None]) & (far <= (age - bound)[..., None])
    if not sizes.compressed:
        return Absent(steps)
    (queue,) = sizes.queues
    made = _floor(bound + sizes.padding, sizes.rate)  # negative while all slots are empty
    number = made[..., None] - queue.size + torch.arange(queue.size, device=age.device)
    # A query at a time: the numbers differ from query to query.
    flat = (number.flatten(0, 1), made.flatten()[:, None])
    origin = slot_origin(sizes, age, bound).flatten()[:, None]
    distance = sizes.slot_distance.of(queue, *flat, origin).view_as(number)
    return Absent(steps, number < 0, distance)


def ends(sizes: Sizes, age: Tensor) -> Tensor:
    """Where a window ends and a block leaves the memory (unmasked, of nothing too); bool like `age`."""
    ending = (age + 1) % sizes.window == 0
    return ending & (sizes.made(age + 1) > 0) if sizes.mask_empty else ending


@dataclass
class Departure:
    """What n rows whose window ends at one step turn into slots.

    Attributes:
        place: [n, 1, lookback + W], where the ring of steps holds what leaves; there: bool, which of it exists.
        sources: see `Layer.make_slots`.
        kept: pairs [2, k] of row and new slot, of all queues in one sequence, that stay.
        slot: [k], where in the rings of all queues they are written.
    """

    place: Tensor
    there: Tensor
    sources: list[Tensor]
    kept: Tensor
    slot: Tensor


def departure(sizes: Sizes, step: Tensor) -> Departure:
    """Plans what leaves when the windows of the steps `step` [n], already in the ring, end."""
    device = step.device
    bound = (step + 1 - sizes.memory)[:, None]
    leaving = bound - sizes.window + torch.arange(-sizes.lookback, sizes.window, device=device)
    number = torch.arange(-sizes.block, 0, device=device)
    number = number + _floor(bound + sizes.padding, sizes.rate)
    zero = torch.zeros_like(number)
    new = Slots(number, start=zero, there=number >= 0, block=zero)
    had, has = sizes.made(step), sizes.made(step + 1)
    stays, slots, sources, offset = [], [], [], 0
    states = zip(levels(sizes.queues, had), levels(sizes.queues, has), strict=True)
    for (queue, _, before), (_, first, _) in states:
        stays.append(new.there & (new.number >= first[:, None]))
        slots.append(offset + new.number % queue.size)
        offset += queue.size
        if queue.merge:
            new, source = pass_on(queue, new, before, zero[:, 0])
            sources.append(source)
    kept = torch.nonzero(torch.cat(stays, 1)).T
    return Departure(
        place=(leaving % sizes.kept)[:, None],
        there=(leaving >= 0)[:, None],
        sources=sources,
        kept=kept,
        slot=torch.cat(slots, 1)[kept[0], kept[1]],
    )


def _plan_slots(plan: Plan, sizes: Sizes, step: Tensor, start: Tensor, earlier: int) -> None:
    rows, steps = start.shape
    kept, device = sizes.kept, start.device
    count = -(-steps // sizes.window)  # windows that can end in the call
    closes = ends(sizes, plan.age)
    order = torch.where(closes, closes.cumsum(1) - 1, count)
    ending = torch.full((rows, count + 1), -1, device=device)
    ending = ending.scatter(1, order, torch.arange(steps, device=device).expand(rows, -1))
    ending = ending[:, :count]  # (B, N): the call's step at which the window ends
    exists = ending >= 0
    at = ending.clamp(min=0)
    block_start = start.gather(1, at)  # (B, N): where the block's episode began
    bound = plan.age.gather(1, at) + 1 - sizes.memory  # the boundary from then on
    member = (bound - sizes.window)[..., None] + torch.arange(
        -sizes.lookback, sizes.window, device=device
    )
    # A window whose steps all precede the block's last has no query after it (memory 0): all of them ask.
    ahead = max(sizes.window - sizes.memory, 0) if sizes.memory else 0
    queries = at[..., None] + torch.arange(1 - sizes.window, 1, device=device) + earlier
    plan.blocks = Blocks(
        steps=(block_start[..., None] + member).clamp(min=0),
        there=(member >= 0) & exists[..., None],
        queries=queries.clamp(min=0),
        asked=(queries >= 0)
        & exists[..., None]
        & (torch.arange(sizes.window, device=device) >= ahead),
    )
    # The slots of each block, numbered in their episode.
    last = torch.div(bound + sizes.padding, sizes.rate, rounding_mode="floor")
    number = last[..., None] + torch.arange(-sizes.block, 0, device=device)  # (B, N, n)
    block = torch.arange(count, device=device).repeat_interleave(sizes.block)
    fresh = Slots(
        number=number.flatten(1),
        start=block_start.repeat_interleave(sizes.block, 1),
        there=((number >= 0) & exists[..., None]).flatten(1),
        block=block.expand(rows, -1),
    )
    boundary = sizes.boundary(plan.age)
    origin = slot_origin(sizes, plan.age, boundary)
    made = (sizes.made(step), sizes.made(plan.steps), sizes.made(plan.age))
    where = (kept - step, start)
    plan.queues = plan_queues(sizes.queues, fresh, made, where, origin, sizes.slot_distance)


def slot_origin(sizes: Sizes, age: Tensor, boundary: Tensor) -> Tensor:
    """What slots' distances are counted from, see `Distance`."""
    if sizes.slot_positions == "time":
        return age + sizes.padding
    return age - boundary - (sizes.memory if sizes.slot_positions == "authors" else 0)
