"""Commands as processes: their output, their exit status."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cli.forked import Forked

ROOT = Path(__file__).parents[2]
_SETTINGS = {
    "--config": "rooms_select",
    "--envs-per-runner": 4,
    "--fragment": 20,
    "--batch": 80,
    "--minibatch": 80,
    "--memory.d-model": 32,
    "--memory.n-heads": 2,
    "--memory.n-layers": 1,
    "--network.width": 32,
    "--run.report-seconds": 0.2,
    "--run.checkpoint-minutes": 0.01,
    "--device": "cpu",
}
SMALL = [word for pair in _SETTINGS.items() for word in pair]

# The head of a Ray cluster, without the processes that nothing here asks for: each is a Python of its own.
RAY_HEAD = {
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
    "_system_config": {"prestart_worker_first_driver": False},
}


_started = []


@pytest.fixture(autouse=True)
def nothing_goes_on():
    """A test that fails leaves none of its commands running."""
    yield
    while _started:
        process = _started.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def start(*words, cwd=ROOT, path=()):
    """A command as a process; `path` are further folders that it imports from."""
    folders = [*map(str, (ROOT, *path))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    process = Forked([*map(str, words)], str(cwd), folders, environment)
    _started.append(process)
    return process


def finish(process, timeout=900):
    """Status, output, errors; a process that does not end by itself fails the test."""
    try:
        out, err = process.communicate(timeout=timeout)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"did not end within {timeout} s; it had said:\n{out}\n{err}")
    return process.returncode, out, err


def command(*words, cwd=ROOT, timeout=900, path=()):
    return finish(start(*words, cwd=cwd, path=path), timeout)


def wait_for(condition, seconds=600, process=None):
    """Returns once the condition holds; a `process` that ends before fails the test with what it said."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, worker_id):
    """One short finished run, for tests that read it; pytest's workers share it."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    run, said = folder / "trained", folder / "trained.json"
    with FileLock(folder / "trained.lock"):
        if not said.exists():
            said.write_text(
                json.dumps(command("ct_rl.train", *SMALL, "--steps", 4000, "--run-dir", run))
            )
    status, out, err = json.loads(said.read_text())
    assert status == 0, out + err
    return run, out, err
