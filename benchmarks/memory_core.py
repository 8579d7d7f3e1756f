"""What the memory core costs, beside the package that people use now and an LSTM.

    pip install --no-deps compressive-transformer-pytorch==0.4.0 mogrifier einops    # the peer, without changing torch
    python benchmarks/memory_core.py                                                 # one core; writes memory_core.json

All sides run in one process, in turns; medians, and ratios of medians. With a GPU, `--language` times a 12-layer core
of width 1024 in bfloat16 beside the peer and x-transformers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from provenance import commit, machine
from torch import Tensor, nn

from ct_rl.memory import MemoryCore, build_memory

ROWS, STEPS, WIDTH, LAYERS, HEADS, MEMORY, RATE = 32, 64, 128, 3, 4, 64, 4
Work = Callable[[], Any]


def in_turns(sides: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median milliseconds of each side's call, the sides taking turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for work in sides.values():
        work()
        work()
    for _ in range(repeats):
        for name, work in sides.items():
            begun = time.perf_counter()
            work()
            times[name].append((time.perf_counter() - begun) * 1e3)
    return {name: round(statistics.median(part), 3) for name, part in times.items()}


def compressive(window: int = 16, past: int = MEMORY, **options: Any) -> MemoryCore:
    return build_memory(
        "compressive", d_model=WIDTH, n_layers=LAYERS, n_heads=HEADS, window=window, memory=past,
        compressed=past, rate=RATE, **options,
    )  # fmt: skip


def training_pass(core: MemoryCore, x: Tensor, full: int = 12) -> Work:
    """Forward and backward over x, from memories filled by `full` passes."""
    state = core.initial_state(len(x))
    with torch.no_grad():
        for _ in range(full):
            state = core(x, state).state

    def work() -> None:
        core.zero_grad()
        out = core(x, state)
        (out.y.float().square().mean() + sum(out.losses.values())).backward()

    return work


def peer_model(width: int, layers: int, heads: int, window: int, past: int) -> nn.Module:
    """compressive-transformer-pytorch on vectors: its embedding and output taken out."""
    from compressive_transformer_pytorch import CompressiveTransformer

    peer = CompressiveTransformer(
        num_tokens=2, dim=width, seq_len=window, depth=layers, mem_len=past, cmem_len=past,
        cmem_ratio=RATE, heads=heads, gru_gated_residual=False,
    )  # fmt: skip
    peer.token_emb, peer.to_logits = nn.Identity(), nn.Identity()
    return peer


def peer_pass(peer: nn.Module, x: Tensor, full: int = 12, thaw: bool = False) -> Work:
    memories = None
    for _ in range(full):
        _, memories, _ = peer(x, memories)

    def work() -> None:
        peer.zero_grad()
        if thaw:  # what it would cost if its keys and values learned
            for block in peer.attn_layers:
                block.fn.fn.to_kv.weight.requires_grad_(True)
        y, _, loss = peer(x, memories)
        (y.float().square().mean() + loss).backward()

    return work


def training(repeats: int) -> dict[str, Any]:
    x = torch.randn(ROWS, STEPS, WIDTH)
    sides = {
        "compressive, window 16": training_pass(compressive(16), x),
        "compressive, window 64": training_pass(compressive(64), x),
        "LSTM(256)": training_pass(build_memory("lstm", d_model=WIDTH), x),
    }
    try:
        sizes = (WIDTH, LAYERS, HEADS, STEPS, MEMORY)
        sides["peer 0.4.0"] = peer_pass(peer_model(*sizes), x)
        sides["peer 0.4.0, keys and values thawed"] = peer_pass(peer_model(*sizes), x, thaw=True)
    except ModuleNotFoundError as missing:
        print(f"the peer is left out: {missing}; see the head of this file")
    times = in_turns(sides, repeats)
    peers = [name for name in times if "peer" in name]
    ours = times["compressive, window 16"]
    return {
        "milliseconds": times,
        "speed over": {name: round(times[name] / ours, 3) for name in [*peers, "LSTM(256)"]},
        "speed over, window 64": {
            name: round(times[name] / times["compressive, window 64"], 3) for name in peers
        },
    }


def frozen(steps: int = 30) -> dict[str, float]:
    """How far keys' and values' weights move from Adam's first step to its last, ours and the peer's."""
    torch.manual_seed(0)
    x = torch.randn(4, STEPS, WIDTH)
    core = compressive(16)
    state = core.initial_state(4)

    def ours() -> tuple[Tensor, nn.Parameter]:
        nonlocal state
        out = core(x, state)
        state = out.state
        return out.y.square().mean() + out.losses["compression"], core.layers[0].attention.kv.weight

    cases: dict[str, tuple[nn.Module, Callable[[], tuple[Tensor, nn.Parameter]]]] = {
        "compressive": (core, ours)
    }
    try:
        peer = peer_model(WIDTH, LAYERS, HEADS, STEPS, MEMORY)
        memories = None

        def theirs() -> tuple[Tensor, nn.Parameter]:
            nonlocal memories
            y, memories, loss = peer(x, memories)
            return y.square().mean() + loss, peer.attn_layers[0].fn.fn.to_kv.weight

        cases["peer 0.4.0"] = (peer, theirs)
    except ModuleNotFoundError:
        pass
    moved = {}
    for name, (module, run) in cases.items():
        optimiser = torch.optim.Adam(module.parameters(), 1e-3)
        after_first = None
        for _ in range(steps):
            optimiser.zero_grad()
            loss, weight = run()
            loss.backward()
            optimiser.step()
            if after_first is None:
                after_first = weight.detach().clone()
        moved[name] = round(float((weight.detach() - after_first).abs().max()), 6)
    return moved


def acting_step(core: MemoryCore, warm: int = 600) -> Work:
    """One step for all rows, from full memories; rows stand at different phases, as in training."""
    core.eval()
    x = torch.randn(ROWS, WIDTH)
    resets = torch.zeros(ROWS, dtype=torch.bool)
    state = core.initial_state(ROWS)
    for step in range(warm):
        core.step(x, state, torch.arange(ROWS) == step)
    return lambda: core.step(x, state, resets)


def acting(repeats: int) -> dict[str, Any]:
    lengths = {f"compressive, {past} + {past}": past for past in (MEMORY, 2 * MEMORY, 4 * MEMORY)}
    sides = {name: acting_step(compressive(past=past)) for name, past in lengths.items()}
    sides["LSTM(256)"] = acting_step(build_memory("lstm", d_model=WIDTH))
    times = in_turns(sides, repeats)
    one, two, four = (times[name] for name in lengths)
    return {
        "milliseconds": times,
        "cost over LSTM(256)": round(one / times["LSTM(256)"], 2),
        "cost of doubling the past": [round(two / one, 2), round(four / two, 2)],
    }


def peak(steps: int) -> float:
    """MiB that a training pass over `steps` steps adds to this process at its peak."""
    x = torch.randn(ROWS, steps, WIDTH)
    core = compressive()
    state = core.initial_state(ROWS)
    short = core(x[:, :1], state)
    short.y.sum().backward()
    before = _high_water()
    out = core(x, state)
    (out.y.square().mean() + out.losses["compression"]).backward()
    return _high_water() - before


def _high_water() -> float:
    """The most resident MiB that this program has had; getrusage counts what forked it too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status: peak memory is measured on Linux only")


def peaks() -> dict[str, Any]:
    """Peak memory against T, each in a process of its own."""
    sizes = (64, 128, 256, 512, 1024)
    found = {}
    for steps in sizes:
        words = [sys.executable, __file__, "--peak", str(steps)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        found[steps] = round(float(done.stdout), 1)
    return {
        "MiB": found,
        "growth when T doubles": [
            round(found[b] / found[a], 2) for a, b in itertools.pairwise(sizes)
        ],
    }


def language(device: str, width: int, layers: int, window: int, rows: int, repeats: int) -> Any:
    """Tokens per second of a training pass in bfloat16, and the share of the card's matrix rate; window = memory."""
    heads = max(width // 64, 1)
    x = torch.randn(rows, window, width, device=device)

    def bfloat16(work: Work) -> Work:
        def run() -> None:
            with torch.autocast(device.split(":")[0], torch.bfloat16):
                work()
            if device != "cpu":
                torch.cuda.synchronize()

        return run

    core = build_memory(
        "compressive", d_model=width, n_layers=layers, n_heads=heads, window=window, memory=window,
        compressed=window, rate=RATE,
    ).to(device)  # fmt: skip
    compiled = torch.compile(core)
    sides: dict[str, Work] = {
        "compressive": bfloat16(training_pass(core, x, 3)),
        "compressive, compiled": bfloat16(training_pass(compiled, x, 3)),
    }
    try:
        peer = peer_model(width, layers, heads, window, window).to(device)
        sides["peer 0.4.0"] = bfloat16(peer_pass(peer, x, 3))
    except ModuleNotFoundError as missing:
        print(f"left out: {missing}")
    try:
        from x_transformers import Decoder

        decoder = Decoder(dim=width, depth=layers, heads=heads, rel_pos_bias=True).to(device)
        mems = [torch.randn(rows, 2 * window, width, device=device) for _ in range(layers)]

        def step() -> None:
            decoder.zero_grad()
            decoder(x, mems=mems).float().square().mean().backward()

        sides["x-transformers with memory"] = bfloat16(step)
    except ModuleNotFoundError as missing:
        print(f"left out: {missing}")
    times = in_turns(sides, repeats)
    a = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    rate = 2 * 4096**3 / in_turns({"matrix": bfloat16(lambda: a @ a)}, 5)["matrix"] * 1e3
    tokens = rows * window
    parameters = sum(p.numel() for layer in core.layers for p in layer.parameters())
    work = 6 * parameters * tokens + 12 * layers * width * tokens * 3 * window
    return {
        "sizes": {"width": width, "layers": layers, "window": window, "rows": rows},
        "tokens per second": {name: round(tokens / t * 1e3) for name, t in times.items()},
        "share of the measured matrix rate": {
            name: round(work / t * 1e3 / rate, 3) for name, t in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--peak", type=int, metavar="T", help="only print one pass's peak memory")
    parser.add_argument("--language", action="store_true", help="also where there is no GPU, tiny")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        print(peak(arguments.peak))
        return
    report: dict[str, Any] = {
        "command": "python benchmarks/memory_core.py",
        "commit": commit(),
        "machine": machine("one core"),
        "sizes": {
            "rows": ROWS, "steps": STEPS, "width": WIDTH, "layers": LAYERS, "heads": HEADS,
            "memory and compressed": MEMORY, "rate": RATE,
        },
        "training pass": training(arguments.repeats),
        "movement of keys' and values' weights, Adam's 2nd to 30th step": frozen(),
        "acting step": acting(20 * arguments.repeats),
        "peak memory of a training pass": peaks(),
        "language model on a GPU": "not run: no GPU here",
    }  # fmt: skip
    if torch.cuda.is_available():
        key = f"language model on {torch.cuda.get_device_name()}"
        report.pop("language model on a GPU")
        report[key] = language("cuda", 1024, 12, 512, 16, arguments.repeats)
    elif arguments.language:
        report["language model, tiny, on the CPU"] = language("cpu", 64, 2, 16, 4, 3)
    print(json.dumps(report, indent=1))
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
