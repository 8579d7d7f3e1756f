"""Training: schedules, accumulation, resume, kills, several processes."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ct_rl import checkpoint
from ct_rl.errors import RunFailed, UserError
from ct_rl.lm import analysis, corpus
from ct_rl.lm.build import build_model
from ct_rl.lm.config import LMConfig, ModelConfig, OptimiserConfig, read_yaml
from ct_rl.lm.display import Display
from ct_rl.lm.model import LanguageModel
from ct_rl.lm.parallel import Group
from ct_rl.lm.run import Run, fresh_path
from ct_rl.lm.schedule import ends_update, iterations_per_update, learning_rate
from ct_rl.lm.streams import Streams
from ct_rl.lm.trainer import NotFinite, Trainer
from ct_rl.lm.vocabulary import Bytes
from ct_rl.memory import memory_class
from tests.lm.conftest import ROOT, SIZES, SMALL, environment, here

CPU = torch.device("cpu")


def config(**over):
    optimiser = {"lr": 3e-3, "warmup": 2} | over.pop("optimiser", {})
    options = {**SIZES, "compressed": 8, "rate": 2, **over.pop("options", {})}
    return LMConfig(
        model=ModelConfig(options=options),
        optimiser=OptimiserConfig(**optimiser),
        **{"batch": 4, "length": 12, "steps": 12, **over},
    )


def trained(setup, letters, steps=None):
    trainer = Trainer(setup, letters, CPU, Group())
    for _ in range(steps or setup.steps):
        trainer.iterate()
    return trainer


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_the_learning_rate_warms_up_in_a_line_and_falls_in_a_cosine():
    o = OptimiserConfig(lr=3e-4, lr_ends=1e-6, warmup=10)
    rates = [learning_rate(o, step, 111) for step in range(111)]
    assert rates[9] == pytest.approx(3e-4) and rates[10] == pytest.approx(3e-4)
    assert rates[4] == pytest.approx(1e-6 + (3e-4 - 1e-6) / 2)
    assert rates[60] == pytest.approx((3e-4 + 1e-6) / 2)
    assert rates[110] == pytest.approx(1e-6)


def test_updates_come_every_k_iterations_from_the_chosen_one():
    o = OptimiserConfig(update_every=4, update_every_from=6)
    assert [s for s in range(16) if ends_update(o, s)] == [0, 1, 2, 3, 4, 5, 9, 13]
    assert [iterations_per_update(o, s) for s in (5, 6)] == [1, 4]
    assert all(ends_update(OptimiserConfig(), step) for step in range(9))


def test_weights_move_only_where_an_update_ends(letters):
    setup = config(optimiser={"update_every": 3, "update_every_from": 2})
    trainer = Trainer(setup, letters, CPU, Group())
    moved = []
    for _ in range(8):
        before = weights(trainer)
        trainer.iterate()
        moved.append(not torch.equal(before, weights(trainer)))
    assert moved == [True, True, False, False, True, False, False, True]


def test_a_batch_in_parts_gives_the_update_of_the_whole(letters):
    whole, parts = (trained(config(optimiser={"accumulate": n}), letters, 5) for n in (1, 4))
    assert torch.allclose(weights(whole), weights(parts), atol=2e-5)
    for name, value in whole.memory.items():
        assert torch.allclose(value, parts.memory[name], atol=1e-3)


def scattered():
    """Letters in documents of unlike lengths: streams side by side compress unlike numbers of steps."""
    draw = np.random.default_rng(0)
    tokens = draw.choice(np.frombuffer(b"abcd efg", np.uint8), 4_000)
    starts = np.cumsum(draw.integers(1, 60, 200))
    return corpus.from_array(tokens, np.array([0, *starts[starts < 4_000]]), Bytes(), "scattered")


def anew(loss="attention", **optimiser):
    """A run whose memory starts anew with each document."""
    return config(
        optimiser={"clip": 1e9, **optimiser},
        options={"compression_loss": loss},
        length=20,
        reset_at_documents=True,
    )


def gradients(setup, model=None, group=None, iterations=6):
    """Of every update, in float64, while no weight moves; and the sums of all of them."""
    model = (model or build_model(setup.model, 256, 0)).double()
    trainer = Trainer(setup, scattered(), CPU, group or Group(), model)
    found = {name: [] for name in trainer.parts}
    for name, parameters in trainer.parts.items():
        trainer.optimisers[name].step = lambda kept=found[name], parameters=parameters: kept.append(
            torch.cat([p.grad.flatten() for p in parameters])
        )
    for _ in range(iterations):
        trainer.iterate()
    return found, trainer.sums


def same_sums(sums, whole):
    assert sums.terms == whole.terms and sums.losses == pytest.approx(whole.losses, rel=1e-9)


@pytest.mark.parametrize("loss", ["attention", "auto_encoding"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parts_that_compress_unlike_numbers_of_steps_give_the_gradient_of_the_whole(parts, loss):
    whole, sums = gradients(anew(loss))
    found, of_parts = gradients(anew(loss, accumulate=parts))
    torch.testing.assert_close(found, whole)
    same_sums(of_parts, sums)


def test_a_strangers_loss_that_says_nothing_counts_all_tokens_alike():
    class Sized(memory_class("gru")):
        def run(self, x, state, resets, attention):
            out = super().run(x, state, resets, attention)
            out.losses["size"] = out.y.square().mean()
            return out

    torch.manual_seed(0)
    model = LanguageModel(256, Sized(d_model=16, hidden=16))
    whole, sums = gradients(anew(), model, iterations=2)
    found, of_parts = gradients(anew(accumulate=4), model, iterations=2)
    torch.testing.assert_close(found, whole)
    same_sums(of_parts, sums)
    assert sums.terms == {"size": 2 * 4 * 20}


def test_an_update_of_several_iterations_has_one_mean():
    setup = anew()
    singly, _ = gradients(setup)
    together, _ = gradients(anew(update_every=2, update_every_from=0))
    terms = [0.0] + [gradients(setup, iterations=n)[1].terms["compression"] for n in range(1, 7)]
    for number, mean in enumerate(together["compressor"]):
        one, other = singly["compressor"][2 * number : 2 * number + 2]
        n, m = np.diff(terms)[2 * number : 2 * number + 2]
        torch.testing.assert_close(mean, (n * one + m * other) / (n + m))
    pairs = zip(singly["task"][::2], singly["task"][1::2], strict=True)
    torch.testing.assert_close(together["task"], [(one + other) / 2 for one, other in pairs])


def test_the_figure_of_compression_is_the_mean_over_all_that_was_compressed():
    model = build_model(anew().model, 256, 0).double()
    model.core.train()
    length, skip, state, loss, terms = 20, 1, model.initial_state(1), 0.0, 0
    text = scattered()
    streams = Streams(text.tokens["train"][:633], text.documents["train"], 1, length)
    for number in range(632 // length):
        x, _, starts = streams.stretch(number * length, length)
        with torch.no_grad():
            out = model.run(x, state, starts)
        if number >= skip:
            loss += float(out.losses["compression"] * out.terms["compression"])
            terms += int(out.terms["compression"])
        state = out.state
    found = analysis.attention(
        model, text, "train", length=length, tokens=600, reset_at_documents=True
    )
    assert found["compression_loss"] == pytest.approx([loss / terms], rel=1e-9)


def in_two_processes(monkeypatch, job, *each):
    """What two processes of a group give that run at once: `job` of each pair of `each` and the group."""
    given, total = [], []
    both = threading.Barrier(2, lambda: (total.append(sum(given)), given.clear()))

    def all_reduce(x):
        given.append(x.clone())
        both.wait(60)
        x.copy_(total[-1])

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(job, *each, [Group(rank, 2) for rank in range(2)]))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_that_compress_unlike_numbers_of_steps_give_the_gradient_of_one(
    monkeypatch, accumulate
):
    whole, sums = gradients(anew())
    setup = anew(accumulate=accumulate)
    models = [build_model(setup.model, 256, 0) for _ in range(2)]  # a seed is of all threads
    (one, mine), (other, theirs) = in_two_processes(monkeypatch, gradients, [setup] * 2, models)
    torch.testing.assert_close(one, whole)
    torch.testing.assert_close(other, whole)
    assert mine.terms["compression"] != theirs.terms["compression"]
    assert mine.terms["compression"] + theirs.terms["compression"] == sums.terms["compression"]


def test_processes_whose_rows_have_unlike_bands_of_words_learn_what_one_learns(monkeypatch):
    """A band that no target of a process is of has no gradient there; here rare words are of the second row alone."""
    text = np.tile(np.frombuffer(b"abcdefgh", np.uint8), 200) % 8
    text[800:] += 200
    rows = corpus.from_array(text, np.zeros(1, int), Bytes(), "bands")
    rows.tokens["train"] = text
    setup = config(batch=2, steps=4)
    setup.model.cutoffs = [100, 240]  # none is of the last band

    def learn(model, group):
        trainer = Trainer(setup, rows, CPU, group, model)
        for _ in range(4):
            trainer.iterate()
        return weights(trainer)

    one, *models = (build_model(setup.model, 256, 0) for _ in range(3))
    whole = learn(one, Group())
    for share in in_two_processes(monkeypatch, learn, models):
        assert torch.allclose(share, whole, atol=1e-5)


def test_the_gradient_is_clipped_at_the_norm_asked_for(letters):
    trainer = Trainer(config(optimiser={"clip": 0.1}), letters, CPU, Group())
    seen = []
    step = trainer.optimisers["task"].step
    trainer.optimisers["task"].step = lambda: (
        seen.append(math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.parts["task"]))),
        step(),
    )
    trainer.iterate()
    assert seen[0] == pytest.approx(0.1, rel=1e-3)


def test_only_the_compression_loss_trains_the_compressor(letters):
    trainer = Trainer(config(), letters, CPU, Group())
    compressor = {id(p) for p in trainer.parts["compressor"]}
    assert compressor and not compressor & {id(p) for p in trainer.parts["task"]}
    before = [p.detach().clone() for p in trainer.parts["compressor"]]
    for _ in range(4):
        trainer.iterate()
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.parts["compressor"], strict=True)
    )


@pytest.mark.parametrize("over", [{}, {"options": {"dropout": 0.2}}])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(letters, tmp_path, over):
    setup = config(optimiser={"update_every": 2, "update_every_from": 4}, **over)
    straight = trained(setup, letters)
    first = trained(setup, letters, 6)
    assert first.at_rest
    tensors, meta = first.state()
    checkpoint.save(tmp_path, first.step, tensors, {**meta, "score": None})
    kept, _ = checkpoint.load_last(tmp_path)
    second = Trainer(setup, letters, CPU, Group())
    second.load(kept.step, kept.tensors, kept.meta)
    while second.step < setup.steps:
        second.iterate()
    assert torch.equal(weights(straight), weights(second))
    assert straight.sums == second.sums
    assert all(torch.equal(straight.memory[k], second.memory[k]) for k in straight.memory)


def test_bfloat16_learns_what_float32_learns(letters):
    a, b = (trained(config(precision=p, steps=30), letters) for p in ("float32", "bfloat16"))
    assert all(v.dtype != torch.bfloat16 for v in b.memory.values())
    assert a.sums.nats / a.sums.tokens == pytest.approx(b.sums.nats / b.sums.tokens, rel=0.02)


def test_documents_begin_anew_where_asked_for(letters):
    carried, anew = (
        trained(config(reset_at_documents=flag, length=30), letters, 4) for flag in (False, True)
    )
    assert (carried.memory["steps"] == 120).all()
    assert (anew.memory["steps"] < 100).all()


def final(run):
    kept, damaged = checkpoint.load_last(run / "checkpoints")
    assert not damaged
    return kept


def test_a_longer_run_is_recorded_and_the_command_it_prints_goes_on(
    tmp_path, text_file, monkeypatch, capsys
):
    run = tmp_path / "a run"
    flags = ("--data", text_file, "--steps", 4, "--run-dir", run)
    assert here("train", *SMALL, *flags) == 0
    with monkeypatch.context() as stopped:
        stopped.setattr(Group, "any", lambda self, flag: True)
        more = ("--resume", run, "--steps", 9, "--report-every", 3)
        assert here("train", *more) == 130
    assert final(run).step == 5
    kept = read_yaml(Run(run).config)
    assert (kept.steps, kept.report_every) == (9, 3)
    again = shlex.split(capsys.readouterr().out.rpartition("go on: python -m ct_rl.lm ")[2])
    assert again == ["train", "--resume", str(run)]
    assert here(*again) == 0
    assert final(run).step == 9


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260102_030405")
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(fresh_path, ["tiny"] * 8))
    assert len(set(made)) == 8 and all(path.is_dir() for path in made)
    shutil.rmtree("runs")
    Path("runs").touch()
    with pytest.raises(UserError, match="runs is a file: give another --run-dir"):
        fresh_path("tiny")


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="lower --batch"):
        here("train", "--data", text_file, "--batch", 4_000)
    assert not list(tmp_path.iterdir())
    assert here("train", *SMALL, "--data", text_file, "--steps", 1) == 0
    assert [path.name[:8] for path in (tmp_path / "runs").iterdir()] == ["lm_tiny_"]


def test_a_diverging_run_ends_in_a_line_and_no_checkpoint_holds_what_is_not_finite(
    tmp_path, text_file
):
    path = tmp_path / "run"
    wild = ("--lr", 1000, "--lr-ends", 1000, "--warmup", 0, "--clip", 1e9, "--eval-every", 1)
    flags = ("--data", text_file, "--steps", 60, "--checkpoint-every", 1, "--run-dir", path)
    with pytest.raises(RunFailed) as error:
        here("train", *SMALL, *flags, *wild)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    for saved in checkpoint.steps(path / "checkpoints"):
        tensors = checkpoint.load(path / "checkpoints" / f"step_{saved:012d}").tensors
        assert all(at.isfinite().all() for at in tensors.values() if at.is_floating_point())


def test_a_gradient_that_is_not_finite_moves_no_weight(letters):
    trainer = Trainer(config(), letters, CPU, Group())
    before = weights(trainer)
    parameter = trainer.parts["compressor"][0]
    parameter.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(NotFinite, match="the gradient holds NaN or infinity at iteration 0"):
        trainer.iterate()
    assert torch.equal(weights(trainer), before)


def test_a_run_goes_on_with_what_it_was_trained_with(tmp_path, text_file, capsys):
    path = tmp_path / "run"
    flags = ("--data", text_file, "--steps", 10, "--run-dir", path)
    assert here("train", *SMALL, *flags) == 0
    whole = (path / "config.yaml").read_text()
    for old, new in (
        ("batch: 4", "batch: 2"),
        ("d_model: 16", "d_model: 32"),
        ("seed: 0", "seed: 1"),
    ):
        assert whole.count(old) == 1
        (path / "config.yaml").write_text(whole.replace(old, new))
        name, _, value = old.partition(": ")
        says = (
            rf"config.yaml has .*{name}.*, and the run was trained with .*{value}.*: put that back"
        )
        with pytest.raises(UserError, match=says):
            here("train", "--resume", path, "--steps", 20)
    (path / "config.yaml").write_text(
        whole.replace("    d_model: 16", "    d_model: 16\n    dropout: 0.5")
    )
    with pytest.raises(UserError, match=r"has model.options = .*'dropout': 0.5.*put that back"):
        here("train", "--resume", path, "--steps", 20)
    (path / "config.yaml").write_text(whole)
    with pytest.raises(UserError, match=r"goes on with its own --lr \(.*\), not 0.5: leave it out"):
        here("train", "--resume", path, "--lr", 0.5)
    with pytest.raises(UserError, match=r"is at 10 already: give --steps 10 or more"):
        here("train", "--resume", path, "--steps", 5)
    assert (path / "config.yaml").read_text() == whole
    other = tmp_path / "other"
    other.write_bytes(text_file.read_bytes()[::-1])
    with pytest.raises(UserError, match="is another text than the run began with"):
        here("train", "--resume", path, "--steps", 20, "--data", other)
    (path / "metrics.jsonl").write_text('12\n{"step": "x"}\nhalf a li')
    assert here("train", "--resume", path, "--steps", 20) == 0


def test_a_damaged_checkpoint_is_said_to_be_passed_over(tmp_path, text_file, capsys):
    path = tmp_path / "run"
    flags = ("--data", text_file, "--steps", 20, "--run-dir", path)
    assert here("train", *SMALL, *flags) == 0
    last = path / "checkpoints" / "step_000000000020" / "weights.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    assert Run(path).last().step == 10
    err = capsys.readouterr().err
    assert err.startswith("warning: ") and err.rstrip().endswith("; step 10 is taken")


def test_a_display_whose_reader_goes_away_falls_silent(tmp_path):
    read, write = os.pipe()
    with open(write, "w") as stream:
        display = Display(stream)
        os.close(read)
        display.say("nobody reads it")
        display.say("nor this")


@pytest.mark.parametrize("flag", ["--run-dir", "--preset"])
def test_a_run_that_goes_on_has_its_own_folder_and_preset(tmp_path, text_file, flag):
    run = tmp_path / "run"
    assert here("train", *SMALL, "--data", text_file, "--steps", 1, "--run-dir", run) == 0
    with pytest.raises(UserError, match=f"a run goes on with its own .*: leave {flag} out"):
        here("train", "--resume", run, flag, "tiny")


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(tmp_path, text_file, capsys):
    flags = ["train", *SMALL, "--data", text_file, "--steps", 60]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    torch.set_num_threads(1)
    assert here(*flags, "--run-dir", straight) == 0
    out = capsys.readouterr().out
    assert "bpc" in out and "tokens/s" in out and "left" in out and "matrix rate" in out
    process = subprocess.Popen(
        [sys.executable, "-m", "ct_rl.lm", *map(str, flags), "--run-dir", str(killed)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while not checkpoint.steps(killed / "checkpoints") and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert here("train", "--resume", killed) == 0
    a, b = final(straight), final(killed)
    assert a.step == b.step == 60
    assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)
    rows = [
        [
            (row["step"], row["loss"], row.get("valid_loss"))
            for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        ]
        for run in (straight, killed)
    ]
    assert rows[0] == rows[1] and [row[0] for row in rows[0]] == [10, 20, 30, 40, 50, 60]
    with pytest.raises(UserError, match=r"goes on with its own --batch \(4\), not 8"):
        here("train", "--resume", killed, "--batch", 8)


@pytest.mark.slow
def test_the_first_signal_saves_and_ends_the_run_with_130(tmp_path, text_file):
    run = tmp_path / "run"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ct_rl.lm", "train", *SMALL, "--data", str(text_file)),
            *("--steps", "100000", "--run-dir", str(run)),
        ],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not checkpoint.steps(run / "checkpoints") and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 130 and "Traceback" not in err
    step = final(run).step
    assert f"stopped at {step:,}; go on: python -m ct_rl.lm train --resume {run}" in out


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path, text_file):
    """Streams are shared out and gradients averaged: the same update, to rounding."""
    flags = ["train", *SMALL, "--data", text_file, "--steps", 20]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(*flags, "--run-dir", alone) == 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "ct_rl.lm", *map(str, flags), "--run-dir", str(both)),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    a, b = final(alone), final(both)
    for name, value in a.tensors.items():
        assert value.shape == b.tensors[name].shape
        if name.startswith("weights/") and value.is_floating_point():
            assert torch.allclose(value, b.tensors[name], atol=1e-4), name
    rows = [Run(path).rows() for path in (alone, both)]
    assert [row["loss"] for row in rows[0]] == pytest.approx([row["loss"] for row in rows[1]], 1e-4)
