"""Bad input: one clear line, exit status 2, no traceback, nothing made."""

import errno
import os
import subprocess
import sys

import pytest

from ct_rl import evaluate, train
from ct_rl.errors import run_command
from ct_rl.run_folder import RunFolder
from tests.cli.conftest import ROOT, command

TRAIN = {
    "--rate 0": "--rate 0 is too small: give 1 or more",
    "--rate four": "--rate: expected a whole number, not 'four'",
    "--rate": "'--rate/--memory.rate'. Expected 1 values",
    "--rat 4": "unknown option --rat, did you mean '--rate'?",
    "surplus": "unexpected argument 'surplus'",
    "--memory compresive": "--memory: unknown memory 'compresive': choose one of compressive, ",
    "--memory lstm --rate 8": "memory 'lstm' has no option 'rate': its options are d_model, hidden",
    "--memory gtrxl --memory.compression conv": "memory 'gtrxl' has no option 'compression'",
    "--memory.compressed 0 --rate 4": "--rate does nothing where --memory.compressed is 0: leave",
    "--memory.compressed 0 --memory.compression conv": "--memory.compression does nothing where",
    "--memory.compression-loss none --memory.compressed=0": "--memory.compression-loss does noth",
    "--memory.compressed 0 --memory.overflow merge": "--memory.overflow does nothing where",
    "--memory.slot-positions time --memory.compressed 0": "--memory.slot-positions does nothing",
    "--config uncompressed.yaml --rate 2": "--rate does nothing where --memory.compressed is 0",
    "--memory.widow 3": "memory 'compressive' has no option 'widow'",
    "--memory.memory 9223372036854775808": "--memory.memory",
    "--memory.d-ff -1": "--memory.d-ff -1 is too small",
    "--memory.n-layers 100000000": "--memory.n-layers 1e+08 is too large",
    "--auxiliary contrst": "--auxiliary: unknown auxiliary loss 'contrst': did you mean 'contrast'?",
    "--auxiliary.contrast.horizon 3": "choose the loss first: --auxiliary contrast",
    "--training.loss-coeffs compresion=1": "no such loss, did you mean 'compression'?",
    "--training.loss-coeffs compression=x": "compression: expected a number, not 'x'",
    "--import no_such_module": "--import no_such_module: no module named 'no_such_module'",
    "--env dmlab_rooms_selekt": "did you mean dmlab_rooms_select",
    "--env-option objcts=3": "objcts",
    "--env-option objects=1": "objects=1: expected 2 to 36",
    "--env-option objects": "is not KEY=VALUE",
    "--eval-env-option objcts=3": "--eval-env-option: ",
    "--engine quake": "unknown engine 'quake'",
    "--engine quake --env CartPole-v1": "--engine quake: CartPole-v1 has no engines",
    "--engine deepmind_lab": "deepmind_lab is not installed",
    "--memory.window 0": "--memory.window 0 is too small",
    "--network.crop 3": "--network.crop: has 1 of 2 values",
    "--memory.d-model 65536 --memory.d-ff 65536 --memory.n-layers 1000": "give smaller sizes",
    "--memory.d-model 30": "d_model=30",
    "--memory.compression cnov": "compression 'cnov'",
    "--encoder big": "unknown encoder 'big'",
    "--reward-clip hard": "--reward-clip: expected one of auto, none, unit, optimistic_asymmetric",
    "--lr fast": "'fast' is neither a number nor STEP:VALUE,STEP:VALUE",
    "--lr 5:1e-3": "a schedule starts at step 0",
    "--lr 1e308": "--lr 1e+308: expected a number",
    "--vf-loss-coeff inf": "--vf-loss-coeff: expected a number, not 'inf'",
    "--device gpu": "--device: expected one of auto, cpu, cuda, not 'gpu'",
    "--steps 0": "--steps 0 is too small",
    "--steps 1.5": "--steps: expected a whole number, not 1.5",
    "--minibatch 7": "--minibatch 7: give a multiple of --fragment 60, at most 1920",
    "--batch 7": "--batch 7 is no whole number of fragments of 1920 steps",
    "--fragment 100 --batch 80": "give 3200",
    "--config nowhere": "config 'nowhere' not found",
    "--config .": "'.' is a folder, not a file",
    "--config fifo": "'fifo' is no regular file",
    "--config /dev/zero": "'/dev/zero' is no regular file",
    "--config secret": "config 'secret': the file must hold `name: value` lines",
    "--config imports.yaml": "would import some_module: add --import some_module if you trust it",
    "--config colon.yaml": "would import antigravity: add --import antigravity if you trust it",
    "--config cluster.yaml": "names a Ray cluster: join it with --ray-address, or take it out",
    "--resume nowhere": "run folder 'nowhere' not found",
    "--resume nowhere --config rooms_select": "leave --config out",
    "--resume linked": "'linked/.lock' is a symbolic link",
    "--run-dir file": "is a file",
    "--run-dir file/below": "is a file",
    "--run-dir full": "is not empty",
    f"--run-dir {'x' * 5000}": "xxx: is too long: at most 4000",
    f"--run-dir {'x' * 500}": "file name too long",
}
EVALUATE = {
    "nowhere": "run folder 'nowhere' not found",
    "full": "is no run and no exported agent: it holds no config.yaml",
    "": "RUN: is missing",
    "full --episodes 0": "--episodes 0 is too small",
    "full --speed 0": "--speed 0 is too small: give 0.01 or more",
    "full --greddy": "unknown option --greddy",
    "linked": "'linked/.lock' is a symbolic link",
    "stranger": "would import antigravity: add --import antigravity if you trust it",
    f"{'x' * 5000}": "RUN xxx",
    f"{'x' * 500}": "file name too long",
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
    (tmp_path / "secret").write_text("root:x:0:0\n")
    (tmp_path / "imports.yaml").write_text("run: {imports: [some_module]}\n")
    (tmp_path / "colon.yaml").write_text("env: {name: 'antigravity:Env-v0'}\n")
    (tmp_path / "uncompressed.yaml").write_text("memory: {compressed: 0, rate: 8}\n")
    (tmp_path / "cluster.yaml").write_text("run: {ray_address: '10.0.0.1:6379'}\n")
    os.mkfifo(tmp_path / "fifo")
    for name, config in (("linked", ""), ("stranger", "env: {name: 'antigravity:Env-v0'}\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(config)
    (tmp_path / "linked" / ".lock").symlink_to(tmp_path / "secret")
    return tmp_path


@pytest.mark.parametrize(("words", "says"), TRAIN.items())
def test_train_refuses_in_one_line(here, capsys, words, says):
    before = {path: path.is_file() and path.read_bytes() for path in here.rglob("*")}
    assert run_command(lambda: train.command(words.split())) == 2
    (line,) = lines_of(capsys)
    assert line.startswith("error: ") and says in line and len(line) < 600
    assert "root:x" not in line and "antigravity" not in sys.modules
    assert {path: path.is_file() and path.read_bytes() for path in here.rglob("*")} == before


@pytest.mark.parametrize(("words", "says"), EVALUATE.items())
def test_evaluate_refuses_in_one_line(here, capsys, words, says):
    assert run_command(lambda: evaluate.command(words.split())) == 2
    (line,) = lines_of(capsys)
    assert line.startswith("error: ") and says in line


def test_the_process_itself_exits_2_with_one_line(tmp_path):
    status, out, err = command("ct_rl.train", "--rate", "0", cwd=tmp_path)
    assert (status, out) == (2, "")
    assert err == "error: --rate 0 is too small: give 1 or more\n"


def test_what_is_wrong_with_flags_is_said_before_anything_heavy_is_imported(tmp_path):
    code = (
        "import sys; from ct_rl import train; from ct_rl.errors import run_command;"
        "status = run_command(lambda: train.command(['--rate', '0']));"
        "heavy = {'torch', 'ray', 'scipy', 'matplotlib', 'tensorboard'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2, done.stderr


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


def test_a_strangers_run_is_not_obeyed_about_a_cluster(here, capsys, monkeypatch):
    """Ray speaks pickle with its cluster: the address comes from the flag alone."""
    asked = []
    monkeypatch.setattr("ct_rl.ray_session.check_cluster", asked.append)
    monkeypatch.setattr(train, "_in_folder", lambda config, *rest: asked.append(config) or 0)
    run = here / "cluster"
    run.mkdir()
    (run / "config.yaml").write_text("run: {ray_address: '10.0.0.1:6379'}\n")
    assert run_command(lambda: train.command(["--resume", "cluster", "--device", "cpu"])) == 0
    (config,) = asked
    assert config.run.ray_address is None
    assert "give --ray-address to join one again" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.slow
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
