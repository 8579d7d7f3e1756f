"""Ray on this machine for one run: quiet, without a dashboard, gone when the run ends, however it ends.

A run that is one process does without. Works as root, without a network, and where /dev/shm is small (Docker's 64 MB).
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ct_rl import reaper
from ct_rl.errors import RunFailed, UserError, one_line
from ct_rl.freed_memory import ARENAS

_OBJECT_STORE = 512 * 1024**2  # some fragments of frames under way; Ray's least is 75 MiB
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@contextlib.contextmanager
def ray_session(processes: int, gpus: int = 0, address: str | None = None) -> Iterator[None]:
    """Ray for `processes` actors beside the driver.

    Without an `address` it is this run's own: its processes and files are gone afterwards; and where the driver does
    all by itself, on a CPU, none is started. With an address it is a cluster's, which is left as it was found.

    Raises RunFailed when Ray does not start, UserError when no cluster answers at `address`.
    """
    quiet_ray()
    # A learner's thread has the heap whose freed memory is kept, in a process of its own as in this one.
    os.environ.setdefault(ARENAS, "1")
    # Where this package is imported from, for workers that start in another folder.
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *(path for path in paths if path)])
    if address is not None:
        with _joined(address):
            yield
        return
    with _folder() as folder, _started(folder, processes, gpus) if processes or gpus else _alone():
        yield


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """For what the run's processes write; it and they are gone afterwards, even where the run is killed."""
    # Socket paths inside have at most 107 characters, so the folder's name is short.
    folder = tempfile.mkdtemp(prefix="ct_rl-", dir=_short_temporary_folder())
    cleaner = subprocess.Popen(
        [sys.executable, "-I", "-S", reaper.__file__, folder, str(os.getpid())],
        stdin=subprocess.PIPE,
        start_new_session=True,  # a kill of the run's process group must not reach it
    )
    os.environ[reaper.MARK] = folder
    temporary = os.environ.get("TMPDIR")
    # What the run's processes leave when they are killed goes with it.
    os.environ["TMPDIR"] = folder
    try:
        yield Path(folder)
    finally:
        os.environ.pop(reaper.MARK, None)
        os.environ.pop("TMPDIR", None)
        if temporary is not None:
            os.environ["TMPDIR"] = temporary
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            cleaner.wait(timeout=10)


@contextlib.contextmanager
def _started(folder: Path, processes: int, gpus: int) -> Iterator[None]:
    import ray

    shared = Path("/dev/shm")
    fits = shared.is_dir() and shutil.disk_usage(shared).free > 1.1 * _OBJECT_STORE
    try:
        try:
            with _own_signals(), _quiet(folder / "start.log"):
                ray.init(
                    address="local",
                    num_cpus=max(processes + 1, os.cpu_count() or 1),
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE,
                    _plasma_directory=None if fits else str(folder),
                    _temp_dir=str(folder),
                    _node_ip_address="127.0.0.1",
                    # Or Ray starts a process for each core, however few will be asked for.
                    _system_config={"prestart_worker_first_driver": False},
                )
        except Exception as error:  # a node that is too slow raises no other type
            said = one_line(error)
            if len(said) > 400:  # a trace, whose end tells why
                said = f"{said[:100]} ... {said[-300:]}"
            raise RunFailed(f"Ray did not start: {said}") from error
        yield
    finally:
        with _own_signals():
            ray.shutdown()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No Ray: what RLlib puts into Ray's store to get it out again in this process is handed over as it is.

    Its processes would take a third of a run's memory and seconds to start. On a GPU RLlib asks Ray which one.
    """
    import ray

    def here(call: Callable[..., Any]) -> Callable[..., Any]:
        def handed_over(value: Any, **options: Any) -> Any:
            # An environment may have started a Ray of its own.
            return call(value, **options) if ray.is_initialized() else value

        return handed_over

    kept = {name: getattr(ray, name) for name in ("put", "get")}
    vars(ray).update({name: here(call) for name, call in kept.items()})
    try:
        yield
    finally:
        vars(ray).update(kept)


def quiet_ray() -> None:
    """Import Ray so that it keeps silent; before anything else imports it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import ray  # noqa: F401

    for name in ("ray", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)


def unanswered() -> str:
    """The run's acting and learning processes, those that were stopped alone where there are such; for a person."""
    folder = os.environ.get(reaper.MARK)
    if folder is None:
        return ""
    found: list[tuple[bool, str]] = []
    for process in reaper.processes_of(folder, os.getpid()):
        with contextlib.suppress(OSError, IndexError):
            title = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
            if title.startswith("ray::") and "IDLE" not in title:
                stopped = state in "Tt"
                name = title.removeprefix("ray::").partition(".")[0]
                found.append((stopped, f"{name} (process {process}{', stopped' * stopped})"))
    some = [text for stopped, text in found if stopped] or [text for _, text in found]
    return ", ".join(some[:5])


def check_cluster(address: str) -> None:
    """Raises UserError where nothing listens at HOST:PORT; Ray itself would try for minutes.

    Also takes this user's token along, if there is one: Ray's own sessions leave it in ~/.ray, `ray start --head` asks
    for it from then on, and a program that joins by HOST:PORT would not show it. To be called before Ray is imported.
    """
    if (Path.home() / ".ray" / "auth_token").is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from error


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"--ray-address {address}: no Ray cluster answers there ({one_line(error)[:120]}); start one "
        "with 'ray start --head' and give its HOST:PORT, or leave --ray-address out; where Ray runs, its "
        "~/.ray/auth_token must be this user's too"
    )


@contextlib.contextmanager
def _joined(address: str) -> Iterator[None]:
    import ray

    try:
        with _own_signals():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                # The same folders must hold ct_rl on every machine of the cluster.
                runtime_env={
                    "env_vars": {name: os.environ[name] for name in ("PYTHONPATH", ARENAS)}
                },
            )
    except (ConnectionError, RuntimeError, OSError, ValueError, TimeoutError) as error:
        raise _no_cluster(address, error) from error
    try:
        yield
    finally:
        with _own_signals():
            ray.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Signals handled as before: Ray takes SIGTERM when it starts and drops every handler when it ends."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet(log: Path) -> Iterator[None]:
    """Standard error into a file: Ray's native code announces its log level there."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(log, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _short_temporary_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 30 else "/tmp"
