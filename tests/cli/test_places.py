"""Where an experiment's commands run: the same on this machine's cores and on a cluster, whose hosts may die."""

import time
from pathlib import Path

import pytest

from ct_rl.places import HERE, LOG, LOST, Cluster, Cores, changed, put
from tests.cli.conftest import RAY_HEAD

# Counts in a file until it is asked to end, or to the number that it is given; leaves what it began with.
COUNTER = """
import os, signal, sys, time
from pathlib import Path

assert Path("data").read_text() == "beside where it was started"
os.chdir(sys.argv[1])
asked = []
signal.signal(signal.SIGINT, lambda *_: asked.append(1))
begin = int(Path("count").read_text()) if Path("count").exists() else 0
print("from", begin, flush=True)
Path("scratch").touch()
for number in range(begin, int(sys.argv[2])):
    Path("count.new").write_text(str(number + 1))
    os.replace("count.new", "count")  # no half of it is ever carried home
    if asked:
        sys.exit(130)
    time.sleep(0.05)
Path("scratch").unlink()
Path("deep/er").mkdir(parents=True)
Path("deep/er/done").write_text("yes")
"""


@pytest.fixture(scope="module")
def hosts():
    """A Ray cluster: a head where this process is, without room for a task, and hosts that come and go."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Hosts

    if ray.is_initialized():
        ray.shutdown()
    hosts = Hosts(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20, **RAY_HEAD},
    )
    ray.init(address=hosts.address, log_to_driver=False)
    yield hosts
    ray.shutdown()
    hosts.shutdown()


@pytest.fixture(scope="module")
def host(hosts):
    return hosts.add_node(num_cpus=1, object_store_memory=80 * 2**20)


@pytest.fixture(params=["cores", pytest.param("cluster", marks=pytest.mark.slow)])
def place(request):
    if request.param == "cores":
        return Cores([0])
    request.getfixturevalue("host")
    return Cluster(1, gpu=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A job's folder; the command is imported from where the experiment was started."""
    start, folder = tmp_path / "start", tmp_path / "job"
    start.mkdir(), folder.mkdir()
    (start / "ct_rl_counter.py").write_text(COUNTER)
    (start / "data").write_text("beside where it was started")
    monkeypatch.chdir(start)
    return folder


@pytest.fixture
def begin(folder):
    """Starts commands, and ends at last what a failed test left: a cluster of one core would wait for it for ever."""
    begun = []

    def start(place, *words):
        begun.append(place.start([*words], folder))
        return begun[-1]

    yield start
    for running in begun:
        if running.poll() is None:
            running.stop()
            wait_until(lambda running=running: running.poll() is not None, running)


def count(folder: Path) -> int:
    return int((folder / "count").read_text()) if (folder / "count").exists() else 0


def wait_until(condition, running, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        running.poll()
        time.sleep(0.05)


def test_a_command_runs_in_the_jobs_folder_and_leaves_its_files_there(place, folder, begin):
    (folder / "count").write_text("3")
    running = begin(place, "ct_rl_counter", HERE, "6")
    wait_until(lambda: running.poll() is not None, running)
    assert running.poll() == 0
    assert (folder / LOG).read_text() == "from 3\n"
    assert count(folder) == 6 and (folder / "deep" / "er" / "done").read_text() == "yes"
    assert not (folder / "scratch").exists()


def test_it_is_asked_to_end_and_ends_by_itself(place, folder, begin):
    running = begin(place, "ct_rl_counter", HERE, "100000")
    wait_until(lambda: count(folder) > 0, running)
    running.stop()
    wait_until(lambda: running.poll() is not None, running)
    assert running.poll() == 130 and 0 < count(folder) < 100_000
    again = begin(place, "ct_rl_counter", HERE, str(count(folder) + 2))
    again.wait()
    assert again.poll() == 0 and (folder / LOG).read_text().count("from") == 2


def test_a_command_that_fails_says_so(place, folder, begin):
    running = begin(place, "ct_rl_no_such_module")
    running.wait()
    assert running.poll() == 1 and "ct_rl_no_such_module" in (folder / LOG).read_text()


@pytest.mark.slow
def test_what_a_host_had_done_stays_when_it_dies(hosts, host, folder, begin):
    running = begin(Cluster(1, gpu=False), "ct_rl_counter", HERE, "100000")
    wait_until(lambda: count(folder) > 0, running)
    hosts.remove_node(host, allow_graceful=False)
    wait_until(lambda: running.poll() is not None, running)
    assert running.poll() == LOST
    reached = count(folder)
    hosts.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    again = begin(Cluster(1, gpu=False), "ct_rl_counter", HERE, str(reached + 2))
    again.wait()
    assert again.poll() == 0 and f"from {reached}\n" in (folder / LOG).read_text()


def test_changes_make_another_folder_the_same(tmp_path):
    one, other, seen = tmp_path / "one", tmp_path / "other", {}
    (one / "a").mkdir(parents=True)
    other.mkdir()
    (one / "a" / "x").write_bytes(b"1")
    (one / "y").write_bytes(b"2")
    (one / "a" / ".partial-7-step").mkdir()
    (one / "a" / ".partial-7-step" / "half").write_bytes(b"3")
    (one / "link").symlink_to("y")
    first = changed(one, seen)
    assert first == {"a/x": b"1", "y": b"2"} and changed(one, seen) == {}
    put(other, first)
    (one / "a" / "x").unlink()
    (one / "y").write_bytes(b"22")
    second = changed(one, seen)
    assert second == {"a/x": None, "y": b"22"}
    put(other, second)
    assert not (other / "a").exists() and (other / "y").read_bytes() == b"22"


def test_three_hosts_lost_at_one_step_end_the_experiment(tmp_path, capsys):
    from ct_rl.errors import RunFailed
    from ct_rl.experiment_file import read_experiment
    from ct_rl.job import Job

    experiment = read_experiment("rooms_select_rates")
    job = Job(experiment, experiment.variants[0], 3, tmp_path / "job", [])
    job.lost()
    (tmp_path / "job" / "run" / "checkpoints" / "step_000000000500").mkdir(parents=True)
    job.lost(), job.lost()
    assert "its host is lost, it goes on from 500 steps" in capsys.readouterr().out
    with pytest.raises(RunFailed, match="lost 3 times at 500 steps"):
        job.lost()
