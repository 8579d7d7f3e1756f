"""Bad input: one clear line, exit status 2, no traceback, nothing made."""

import errno
import os
import subprocess

import pytest

from ct_rl import algorithm, evaluate, train
from ct_rl.errors import run_command
from ct_rl.run_folder import RunFolder
from tests.cli.conftest import command

TRAIN = {
    "--rate 0": "--rate 0 is too small: give 1 or more",
    "--rate four": "--rate",
    "--rate": "--rate",
    "--rat 4": "did you mean '--rate'",
    "surplus": "unexpected argument 'surplus'",
    "--memory compresive": "choose one of compressive, gru, gtrxl, lstm, transformer_xl",
    "--env dmlab_rooms_selekt": "did you mean dmlab_rooms_select",
    "--env-option objcts=3": "objcts",
    "--env-option objects=1": "objects=1: expected 2 to 36",
    "--env-option objects": "is not KEY=VALUE",
    "--engine quake": "unknown engine 'quake'",
    "--engine deepmind_lab": "deepmind_lab",
    "--memory.window 0": "--memory.window 0 is too small",
    "--memory.d-model 30": "d_model=30",
    "--memory.compression cnov": "unknown compression 'cnov'",
    "--encoder big": "unknown encoder 'big'",
    "--reward-clip hard": "unknown reward_clip 'hard'",
    "--lr fast": "'fast' is neither a number nor STEP:VALUE,STEP:VALUE",
    "--lr 5:1e-3": "a schedule starts at step 0",
    "--device gpu": "invalid choice 'gpu'",
    "--steps 0": "--steps 0 is too small",
    "--config nowhere": "config 'nowhere' not found",
    "--config .": "",
    "--resume nowhere": "run folder 'nowhere' not found",
    "--resume nowhere --config rooms_select": "leave --config out",
    "--run-dir file": "is a file",
    "--run-dir file/below": "is a file",
    "--run-dir full": "is not empty",
}
EVALUATE = {
    "nowhere": "run folder 'nowhere' not found",
    "full": "is no run: it holds no config.yaml",
    "": "run",
    "full --episodes 0": "--episodes 0 is too small",
    "full --speed 0": "--speed 0 is out of range",
    "full --greddy": "unknown option --greddy",
}


def lines_of(capsys):
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return [line for line in said.splitlines() if line]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    return tmp_path


@pytest.mark.parametrize(("words", "says"), TRAIN.items())
def test_train_refuses_in_one_line(here, capsys, words, says):
    before = sorted(here.rglob("*"))
    assert run_command(lambda: train.command(words.split())) == 2
    (line,) = lines_of(capsys)
    assert line.startswith("error: ") and says in line
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(("words", "says"), EVALUATE.items())
def test_evaluate_refuses_in_one_line(here, capsys, words, says):
    assert run_command(lambda: evaluate.command(words.split())) == 2
    (line,) = lines_of(capsys)
    assert line.startswith("error: ") and says in line


def test_the_process_itself_exits_2_with_one_line(tmp_path):
    status, out, err = command("ct_rl.train", "--rate", "0", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err == "error: --rate 0 is too small: give 1 or more\n"


def test_a_missing_x11_library_is_named_with_its_package(here, monkeypatch, capsys):
    import envs

    def broken(*args, **kwargs):
        raise ImportError("libX11.so.6: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(envs, "make_vec", broken)
    assert run_command(lambda: train.command([])) == 2
    (line,) = lines_of(capsys)
    assert "libX11.so.6" in line and "apt-get install libx11-6" in line


def test_a_cuda_device_that_is_not_there_is_named(here, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_command(lambda: train.command(["--device", "cuda"])) == 2
    assert "no CUDA device here" in lines_of(capsys)[0]


@pytest.mark.parametrize(
    ("code", "says"),
    [(errno.EACCES, "permission denied"), (errno.EROFS, "read-only"), (errno.ENOSPC, "no space")],
)
def test_a_run_folder_that_cannot_be_written_is_named(here, monkeypatch, capsys, code, says):
    def refuse(self, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert run_command(lambda: train.command(["--run-dir", "locked"])) == 2
    (line,) = lines_of(capsys)
    assert says in line and "locked" in line


def test_a_run_that_exists_is_not_overwritten(trained, capsys):
    run, *_ = trained
    before = (run / "config.yaml").read_bytes()
    assert run_command(lambda: train.command(["--run-dir", str(run)])) == 2
    assert f"continue it with --resume {run}" in lines_of(capsys)[0]
    assert (run / "config.yaml").read_bytes() == before


def test_a_run_in_training_is_not_trained_twice(tmp_path, capsys):
    held = RunFolder.create(tmp_path / "run")
    held.config.write_text("run: {steps: 10}\n")
    assert run_command(lambda: train.command(["--resume", str(held.path)])) == 2
    assert f"is being trained by process {os.getpid()}" in lines_of(capsys)[0]
    held.close()


@pytest.mark.parametrize("flag", ["--rate 2", "--memory lstm", "--seed 5", "--env CartPole-v1"])
def test_resume_refuses_what_would_make_another_run(trained, capsys, flag):
    run, *_ = trained
    assert run_command(lambda: train.command(["--resume", str(run), *flag.split()])) == 2
    assert "start a new run" in lines_of(capsys)[0]


def test_a_strangers_run_cannot_make_evaluation_import_a_module(here, capsys):
    run = here / "run"
    run.mkdir()
    (run / "config.yaml").write_text("env: {name: 'antigravity:Env-v0'}\n")
    assert run_command(lambda: evaluate.command(["run"])) == 2
    assert "would import a module" in lines_of(capsys)[0]


def test_an_unknown_memory_in_code_is_a_user_error():
    from ct_rl.config import MemoryConfig
    from ct_rl.errors import UserError

    with pytest.raises(UserError, match="unknown memory 'brain'"):
        algorithm.memory_settings(MemoryConfig(kind="brain"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(tmp_path):
    from ct_rl import checkpoint
    from tests.cli.conftest import SMALL

    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run = tmp_path / "run"
        status, out, err = command("ct_rl.train", *SMALL, "--steps", 10**6, "--run-dir", run)
        assert status == 2, out + err
        assert len(err.splitlines()) == 1 and "no space left" in err
        assert checkpoint.load_last(run / "checkpoints")[0] is not None
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
