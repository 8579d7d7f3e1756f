"""Which memories a step may see, when each episode, row and cut stands elsewhere.

Let s be a step's number in its episode, W the window, M the memory, c the rate. Its boundary is
b(s) = floor(s / W) W - M. It sees its episode's steps from max(b(s), 0) to s, and of the compressed slots
(slot k is made of steps kc ... kc + c - 1) those with (k + 1) c <= b(s), the newest C of them. That depends on s
alone and on no cut, so a whole fragment is one parallel pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """The lengths of a compressive memory, in steps (window, memory) and slots (compressed)."""

    window: int
    memory: int
    compressed: int
    rate: int

    def __post_init__(self) -> None:
        for name in ("window", "rate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("memory", "compressed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0")
        for name in ("window", "memory"):
            size = getattr(self, name)
            if self.compressed and size % self.rate:
                below, above = size - size % self.rate, size - size % self.rate + self.rate
                use = f"{below} or {above}" if below else f"{above}"
                raise ValueError(
                    f"{name}={size} is no multiple of rate={self.rate}: use {name}={use}"
                )

    @property
    def kept(self) -> int:
        """Steps that must be remembered between calls."""
        return self.window + self.memory

    @property
    def slot_reach(self) -> int:
        """Distances that a slot can have, from 0."""
        return self.window + self.memory + self.compressed if self.compressed else 0

    def boundary(self, step: Tensor) -> Tensor:
        """b(s), the first step that is not compressed yet; negative while there is none."""
        return torch.div(step, self.window, rounding_mode="floor") * self.window - self.memory

    def new_groups(self, steps: int) -> int:
        """How many groups at most become slots within a call of `steps` steps."""
        if not self.compressed:
            return 0
        return -(-steps // self.window) * self.window // self.rate


@dataclass
class View:
    """Everything a pass over T steps needs to know, the same for all layers.

    The timeline is the kept steps and then the T new ones, K = kept + T positions.

    Attributes:
        gather_kept: [B, kept], where the state's ring holds the timeline's first positions.
        hidden: bool [B, T, K - 1], which of the timeline's positions 1 ... K - 1 a query may NOT see.
        slots_hidden: bool [B, T, C + G], and slot_distance likewise: the state's slots, then the new ones.
        group_source: [B, G, c], timeline positions of the groups to compress; group_there: bool [B, G].
        steps: [B], steps of the running episode after the call.
        next_source: [B, kept], timeline position that each place of the next ring takes; next_there: whether
            it belongs to the running episode. slot_source [B, C] among the C + G slots, and slot_there, likewise.
        slot_ring: [B, C], where the state's ring holds its slots, oldest first.
    """

    gather_kept: Tensor
    hidden: Tensor
    steps: Tensor
    next_source: Tensor
    next_there: Tensor
    slots_hidden: Tensor | None = None
    slot_distance: Tensor | None = None
    group_source: Tensor | None = None
    group_there: Tensor | None = None
    slot_ring: Tensor | None = None
    slot_source: Tensor | None = None
    slot_there: Tensor | None = None


def ring_there(count: Tensor, size: int) -> Tensor:
    """bool [B, size]: which places of a ring that has taken `count` items hold one."""
    place = torch.arange(size, device=count.device)
    newest = count[:, None] - 1
    return newest - (newest - place) % size >= 0


def _ring_order(count: Tensor, size: int) -> Tensor:
    """Where a ring of `size` that has taken `count` items holds its last `size`, oldest first."""
    return (count[:, None] + torch.arange(size, device=count.device)) % size


def view(sizes: Sizes, step: Tensor, resets: Tensor) -> View:
    """Plans a call.

    Args:
        step: int64 [B], steps of the running episode before the call.
        resets: bool [B, T].
    """
    steps = resets.shape[1]
    kept, device = sizes.kept, resets.device
    position = torch.arange(kept + steps, device=device)  # timeline positions
    new = position[kept:]
    # Where each new step's episode began, on the timeline.
    began = torch.where(resets, new, torch.full_like(new, -1))
    start = began.cummax(1).values  # (B, T)
    start = torch.where(start < 0, (kept - step)[:, None], start)
    age = new - start  # (B, T): s of every query
    bound = sizes.boundary(age)  # (B, T)

    sees = torch.minimum(age, age - bound)  # how far back, in steps
    distance = new[:, None] - position[None, 1:]  # (T, K - 1)
    hidden = (distance < 0) | (distance > sees[..., None])  # (B, T, K - 1)
    last_start = start[:, -1]
    after = kept + steps - last_start  # (B): steps of the running episode, this call included
    ring = _ring_order(step, kept)
    back = _ring_order(-after, kept)  # which of the last `kept` positions each ring place takes
    plan = View(
        gather_kept=ring,
        hidden=hidden,
        steps=after,
        next_source=steps + back,
        next_there=steps + back >= last_start[:, None],
    )
    if sizes.compressed:
        _plan_slots(plan, sizes, step, resets, start, age, bound)
    return plan


def _plan_slots(
    plan: View,
    sizes: Sizes,
    step: Tensor,
    resets: Tensor,
    start: Tensor,
    age: Tensor,
    bound: Tensor,
) -> None:
    rows, steps = resets.shape
    kept, c, slots = sizes.kept, sizes.rate, sizes.compressed
    device = resets.device
    position = torch.arange(kept + steps, device=device)
    before = kept - step  # (B): where the episode of the state began
    starts = torch.cat([before[:, None].expand(-1, kept), start], 1)  # (B, K)
    ages = position - starts
    # How long each episode is by its last step in this call: the next reset ends it.
    ends = torch.where(resets, position[kept:], kept + steps)
    following = ends.flip(1).cummin(1).values.flip(1)  # first reset at or after a new position
    beyond = torch.full((rows, 1), kept + steps, device=device)
    next_reset = torch.cat([following[:, :1].expand(-1, kept), following[:, 1:], beyond], 1)
    length = next_reset - starts  # (B, K)
    already = sizes.boundary(step).clamp(min=0)  # steps the state has compressed
    done = torch.where(starts == before[:, None], already[:, None], 0)
    closes = (
        (ages >= 0)
        & ((ages + 1) % c == 0)
        & (ages + 1 <= sizes.boundary(length))
        & (ages + 1 > done)
    )  # (B, K): a group that becomes a slot in this call ends here
    count = sizes.new_groups(steps)
    order = torch.where(closes, closes.cumsum(1) - 1, count)
    last = torch.full((rows, count + 1), -1, device=device)
    last = last.scatter(1, order, position.expand(rows, -1))[:, :count]  # (B, G)
    there = last >= 0
    group = last[..., None] + torch.arange(1 - c, 1, device=device)
    plan.group_there = there
    plan.group_source = group.clamp(min=0)

    slot_start = torch.gather(starts, 1, last.clamp(min=0))  # (B, G)
    fresh_k = torch.where(there, (last - slot_start + 1) // c - 1, -1)
    first_k = already // c - slots
    old_k = first_k[:, None] + torch.arange(slots, device=device)  # (B, C)
    k = torch.cat([old_k, fresh_k], 1)
    episode = torch.cat([before[:, None].expand(-1, slots), slot_start], 1)
    upto = torch.div(bound.clamp(min=0), c, rounding_mode="floor")[..., None]  # (B, T, 1)
    seen = (
        (k >= 0)[:, None]
        & (episode[:, None] == start[..., None])
        & (k[:, None] < upto)
        & (k[:, None] >= upto - slots)
    )
    plan.slots_hidden = ~seen
    near = (age - bound)[..., None] + upto - k[:, None]
    plan.slot_distance = near.clamp(0, sizes.slot_reach - 1)

    now = sizes.boundary(plan.steps).clamp(min=0)  # compressed steps after the call
    plan.slot_ring = _ring_order(already // c, slots)
    # The newest C, put where the next state's ring expects them.
    ring = _ring_order(-(now // c), slots)
    plan.slot_source = there.sum(1, keepdim=True) + ring
    plan.slot_there = (now // c - slots)[:, None] + ring >= 0
