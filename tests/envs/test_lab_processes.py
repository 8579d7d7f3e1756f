"""Worlds in processes of their own: how they end, and what is left of them."""

import fcntl
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import envs
from envs.dmlab import process
from envs.dmlab.vector import LabVectorEnv
from tests.envs.lab import ROOMS, one, pids, play


def test_worlds_live_in_processes_of_their_own_that_end_with_the_environment(open_env, folders):
    del sys.modules["deepmind_lab"]
    env = open_env(num_envs=3)
    env.reset(seed=1)
    assert "deepmind_lab" not in sys.modules
    running = pids(env)
    assert len(set(running)) == 3 and os.getpid() not in running
    for pid in running:
        environment = psutil.Process(pid).environ()
        assert environment["LP_NUM_THREADS"] == "0"
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C in a terminal does not reach it
        assert Path(environment["TMPDIR"]).parent == folders
    assert len(list(folders.glob("*/dmlab_temp_folder_*"))) == 3
    for _ in range(3):
        env.close()
    assert not any(psutil.pid_exists(pid) for pid in running) and not list(folders.iterdir())
    for call in (env.reset, lambda: env.step(np.zeros(3, int))):
        with pytest.raises(RuntimeError, match="closed"):
            call()


def test_an_environment_that_is_forgotten_cleans_up(lab, folders):
    env = LabVectorEnv(ROOMS, 1)
    (pid,) = pids(env)
    del env
    gc.collect()
    assert not psutil.pid_exists(pid) and not list(folders.iterdir())


@pytest.mark.parametrize(
    ("level", "settings", "error", "says"),
    [
        ("natlab_fixed_large_map", {}, RuntimeError, "maps/natlab_forage_ltm_day.bsp is not part of this build"),
        ("psychlab_continuous_recognition", {}, RuntimeError, "give their folder as dataset_path"),
        ("rooms_watermaze", {"config": {"colour": "red"}}, ValueError, "colour"),
    ],
)  # fmt: skip
def test_a_level_that_cannot_run_is_an_error_here_not_the_end(lab, folders, level, settings, error, says):  # fmt: skip
    with pytest.raises(error) as caught:
        LabVectorEnv(level, 2, **settings)
    text = str(caught.value)
    assert says in text and text.startswith(level) and "\n" not in text
    gc.collect()
    assert not list(folders.iterdir())


def test_a_machine_without_the_hardware_renderers_library_is_told_so(lab, folders, monkeypatch):
    monkeypatch.setenv("DEEPMIND_LAB_DOUBLE", "no_hardware")
    with pytest.raises(envs.MissingDependencyError) as caught:
        LabVectorEnv(ROOMS, 1, renderer="hardware")
    text = str(caught.value)
    assert text.startswith(f"{ROOMS}: the engine cannot load its library for renderer='hardware'")
    assert "libEGL.so.1: cannot open shared object file" in text and "\n" not in text
    assert "renderer='software' needs none of it" in text
    gc.collect()
    LabVectorEnv(ROOMS, 1).close()


def test_where_no_death_is_allowed_one_is_an_error_and_a_reset_mends_it(open_env, folders):
    env = open_env(num_envs=2, seconds=1, restarts=0)
    before = play(env, np.zeros((3, 2), int), seed=4)
    os.kill(pids(env)[1], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=f"{ROOMS}: the engine's process was ended by signal 9"):
        for _ in range(3):
            env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.zeros(2, int))
    after = play(env, np.zeros((3, 2), int), seed=4)
    assert [one(before, i) for i in range(2)] == [one(after, i) for i in range(2)]
    assert len(list(folders.iterdir())) == 2


def test_an_engine_that_hangs_is_an_error(open_env, monkeypatch):
    env = open_env(seconds=1, restarts=0)
    env.reset(seed=1)
    monkeypatch.setattr(process, "_PATIENCE", 0.2)
    os.kill(pids(env)[0], signal.SIGSTOP)
    monkeypatch.setattr(process, "_FAREWELL", 0.2)
    with pytest.raises(RuntimeError, match="no answer within"):
        env.step(np.zeros(1, int))


@pytest.mark.parametrize("method", ["ask", "answer"])
def test_an_interrupt_leaves_no_answer_behind(open_env, monkeypatch, method):
    env = open_env(num_envs=2, seconds=1)
    before = play(env, np.zeros((3, 2), int), seed=4)
    call, calls = getattr(process.LabProcess, method), []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:  # the second world's turn
            raise KeyboardInterrupt
        return call(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(process.LabProcess, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros(2, int))
    after = play(env, np.zeros((3, 2), int), seed=4)
    assert [one(before, i) for i in range(2)] == [one(after, i) for i in range(2)]


def test_a_fork_while_an_environment_lives_does_not_hang(open_env):
    env = open_env(seconds=1)
    env.reset(seed=1)
    child = os.fork()
    if child == 0:
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    env.step(np.zeros(1, int))


KILLED = """
import os, signal, sys
from envs.dmlab.vector import LabVectorEnv
env = LabVectorEnv("rooms_watermaze", 2)
env.reset(seed=1)
print(*[world._process.pid for world in env._pool.processes], flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_and_folders_go_when_the_user_is_killed(lab, folders):
    done = subprocess.run(
        [sys.executable, "-c", KILLED],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not any(alive(int(pid)) for pid in done.stdout.split()))
    wait_until(lambda: not list(folders.iterdir()))


def alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_until(holds, seconds=300):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_folders_of_the_killed_go_at_the_next_start_and_those_in_use_stay(open_env, folders):
    old = time.time() - 3600
    abandoned, used = folders / "ct_rl-dmlab-abandoned", open_env()._pool.processes[0]._folder
    abandoned.mkdir()
    (abandoned / "lock").touch()
    for folder in (abandoned, used):
        os.utime(folder, (old, old))
    open_env()
    assert not abandoned.exists() and used.exists()


def test_a_folder_is_in_use_as_long_as_its_process_lives(open_env):
    world = open_env()._pool.processes[0]
    os.close(world._lock)  # as where the process that started it was killed
    world._lock = -1
    with open(world._folder / "lock") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_engines_chatter_is_kept_small(tmp_path, monkeypatch):
    from envs.dmlab import worker

    log = tmp_path / "log"
    log.write_bytes(b"x" * (worker._LOG_BYTES + 1))
    with open(log, "ab") as file:
        monkeypatch.setattr(worker, "_LOG", file.fileno())
        worker._shorten_log()
        file.write(b"later")
    assert log.read_bytes() == b"later"
