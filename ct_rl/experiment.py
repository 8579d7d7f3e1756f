"""Several runs, one comparison: `python -m ct_rl.experiment configs/rooms_select_rates.yaml`.

Trains every variant under every seed, evaluates each, and writes results.json and comparison.png into one folder.
The same command goes on where an earlier one was stopped: what is finished is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ct_rl import checkpoint, command_line, comparison, config_file
from ct_rl.config import Text
from ct_rl.errors import DONE, INTERRUPTED, RunFailed, UserError, run_command, suggestion
from ct_rl.evaluation_file import (
    MAX_STEPS,
    Evaluation,
    evaluation_files,
    played_otherwise,
    read_evaluation,
)
from ct_rl.experiment_file import (
    Episodes,
    Experiment,
    Minutes,
    Parallel,
    Variant,
    read_experiment,
)
from ct_rl.interrupts import Interrupts
from ct_rl.known_runs import different, read_known
from ct_rl.metrics import count_key
from ct_rl.places import HERE, LOG, LOST, Cluster, Cores, Place, Running
from ct_rl.plain_files import write_atomically
from ct_rl.ray_session import check_cluster, ray_session
from ct_rl.reader import quoted, shown
from ct_rl.run_folder import RunFolder, origin, take_lock

PROG = "ct_rl.experiment"
RUN, RECIPE = "run", "recipe.yaml"  # in a job's folder
RUN_HERE = f"{HERE}/{RUN}"
_LOOK_SECONDS, _STATUS_SECONDS = 0.5, 60.0
_MOST_LOSSES = 3  # of hosts in a row, without a step forward


@dataclass
class Arguments:
    """Train and evaluate several runs, and compare them."""

    experiment: Positional[Text]
    """The experiment: a YAML file or the name of a shipped one."""
    run_dir: Text | None = None
    """Folder of the experiment; runs/NAME when absent. One that holds a part of it goes on from there."""
    parallel: Parallel | None = None
    """Runs at a time, each on its share of the cores [count]; the experiment's own when absent."""
    ray_address: Text | None = None
    """Ray cluster to spread the runs over, HOST:PORT or auto: Ray decides where each runs, and how many at a time. The
    folder stays here and is kept up to date; what a host that dies was running goes on elsewhere."""
    only: list[Text] = field(default_factory=list)
    """Variants to work on, by name; all when absent. Finished runs of the others are compared with them."""
    known: list[Text] = field(default_factory=list)
    """Files results.json from other folders or machines: their runs that are this experiment's, by the variant's name
    or else by its settings, are taken as finished."""
    minutes: Minutes | None = None
    """Training of each run by the clock [minutes]; the experiment's own when absent."""
    episodes: Episodes | None = None
    """Episodes that each run is evaluated with [count]; the experiment's own when absent."""
    quick: bool = False
    """The small version: one seed, minutes and episodes of the section `quick`; all is run, little is learned."""
    imports: Annotated[list[Text], arg(name="import")] = field(default_factory=list)
    """Modules that every run imports first, which register environments, memories, encoders or losses."""


def main() -> None:
    """What `python -m ct_rl.experiment` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, do what is left to do, compare, return the exit status."""
    given = command_line.parse_importing(Arguments, argv, prog=PROG)
    experiment = read_experiment(given.experiment, given.imports, given.quick)
    for name in ("parallel", "minutes", "episodes"):
        value = getattr(given, name)
        if value is not None:
            setattr(experiment, name, value)
    if given.ray_address is not None:
        if given.parallel is not None:
            raise UserError(
                "--parallel: Ray decides how many runs its cluster has room for: leave it out"
            )
        check_cluster(given.ray_address)
    _check(experiment, here=given.ray_address is None)
    names = [variant.name for variant in experiment.variants]
    for name in given.only:
        if name not in names:
            raise UserError(
                f"--only {shown(name)}: no variant of experiment {experiment.name!r}"
                f"{suggestion(name, names)}"
            )
    folder = Path(given.run_dir or Path("runs") / experiment.name)
    known = read_known(given.known, experiment, given.imports)
    jobs = [
        Job(
            experiment,
            variant,
            seed,
            folder / f"{variant.folder}_seed{seed}",
            given.imports,
            known.get((variant.name, seed)),
        )
        for seed in experiment.seeds
        for variant in experiment.variants
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--run-dir '{folder}' is a file: choose a folder") from None
    lock = take_lock(folder, f"experiment folder '{folder}' is being worked on")
    with contextlib.closing(lock), Interrupts() as interrupts:
        interrupts.arm()
        with _cluster(given.ray_address):
            done = _work(
                jobs, given.only or names, given.ray_address, experiment, folder, interrupts
            )
        if not done:
            again = shlex.join(["python", "-m", PROG, *argv])
            print(f"interrupted, all saved; go on with the same command:\n  {again}")
            return INTERRUPTED
    results = folder / "results.json"
    print(f"results      {results}\npicture      {folder / 'comparison.png'}")
    return DONE


def _cluster(address: str | None) -> AbstractContextManager[None]:
    if address is None:
        return contextlib.nullcontext()
    return ray_session(0, address=address)


def _check(experiment: Experiment, here: bool) -> None:
    """Raise UserError for what `ct_rl.train` would refuse of any variant, and a measure that no evaluation will have.

    Args:
        here: whether the runs are trained on this machine, whose devices are looked at then.
    """
    from ct_rl.algorithm import check_algorithm, check_network, probe

    for variant in experiment.variants:
        with config_file.named(f"experiment {experiment.name!r}: variant {quoted(variant.name)}"):
            config = variant.config
            if not here:
                config = replace(config, run=replace(config.run, device="cpu"))
            found = probe(config)
            check_network(config, found)
            check_algorithm(config)  # its device, too
        facts = found.facts
        known = ["return", "length", *map(count_key, facts.episode_metrics)]
        known += ["human_normalised"] if facts.score_range else []
        known += ["choice_accuracy"] if {"correct", "wrong"} <= set(known) else []
        if experiment.measure not in known:
            raise UserError(
                f"experiment {experiment.name!r}: measure {experiment.measure!r} is none of "
                f"{variant.config.env.name}{suggestion(experiment.measure, known)}"
            )


class Job:
    """One run of the experiment: its training, then its evaluation, each a process of its own.

    Args:
        known: what it came to elsewhere (`ct_rl.known_runs`); None: it is made here.
    """

    def __init__(
        self,
        experiment: Experiment,
        variant: Variant,
        seed: int,
        path: Path,
        imports: list[str],
        known: dict[str, Any] | None = None,
    ):
        self.known = known
        self.experiment, self.variant, self.seed, self.path = experiment, variant, seed, path
        self.imports = imports
        self.more = ["--import", *imports] if imports else []
        self.run = RunFolder(path / RUN)
        self.words: list[str] = []  # of the process
        self.process: Running | None = None
        self.log_start = 0  # where what this start says begins in the log
        self.losses: list[int] = []  # checkpoints' steps when its host was lost

    @property
    def title(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    def next_command(self) -> list[str] | None:
        """The words of what is to be done next (`ct_rl.places`); None when the run is trained and evaluated."""
        there = self.run.config.exists()
        if there:
            self._require_same()
        if self.known is not None:
            return None
        left = self._minutes_left()
        if there:
            if self._trained():
                if self.evaluation() is not None:
                    return None
                episodes = str(self.experiment.episodes)
                return ["ct_rl.evaluate", RUN_HERE, "--episodes", episodes, *self.more]
            rows = self.rows()  # of a run that somebody took further, perhaps
            if not rows and (self._saved() or 0) >= self.variant.config.run.steps:
                raise UserError(
                    f"'{self.run.metrics}' holds no report, and the run has all its steps: put the file "
                    "back, or remove the run's folder and it is trained anew"
                )
            goal = max(self.variant.config.run.steps, rows[-1]["steps"] if rows else 0)
            words = ["ct_rl.train", "--resume", RUN_HERE, "--steps", str(goal)]
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            text = config_file.dump(self.variant.config)
            write_atomically(self.path / RECIPE, text.encode())
            words = ["ct_rl.train", "--config", f"{HERE}/{RECIPE}", "--seed", str(self.seed)]
            words += ["--run-dir", RUN_HERE]
        words += self.more
        return words if left is None else [*words, "--minutes", f"{max(left, 0.001):.3f}"]

    def start(self, place: Place, words: list[str]) -> None:
        """Begin a command of `next_command` at a place."""
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        self.words, self.process = words, place.start(words, self.path)

    def last_words(self) -> str:
        """What the process that has ended said of its end: its last error, or else its last line."""
        with open(self.log, "rb") as log:
            size = self.log.stat().st_size
            log.seek(max(size - 65_536, min(self.log_start, size)))
            lines = log.read().decode("utf-8", errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it said nothing"])[-1]

    def lost(self) -> None:
        """Its host is gone; raises RunFailed where it gets no further however often it is begun again."""
        at = self._saved() or 0
        self.losses.append(at)
        if self.losses[-_MOST_LOSSES:].count(at) == _MOST_LOSSES:
            raise RunFailed(
                f"{self.title}: its host was lost {_MOST_LOSSES} times at {at:,} steps; all of it is in {self.log}"
            )
        print(
            f"             {self.title}: its host is lost, it goes on from {at:,} steps", flush=True
        )

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> Path:
        return self.path / LOG

    def rows(self) -> list[dict[str, Any]]:
        """The reports of its training so far."""
        return self.run.read_metrics()

    def evaluation(self) -> Evaluation | None:
        """What an evaluation of its last checkpoint with enough episodes of the level says; None without one."""
        last = self._saved()
        for file in evaluation_files(self.run.path):
            found = read_evaluation(file)
            enough = min(score.get("episodes") or 0 for score in found.scores.values())
            both = {"sampled", "greedy"} <= set(found.scores)
            if found.steps != last or not both or enough < self.experiment.episodes:
                continue
            if not played_otherwise(found, self.run.read_config(self.imports)):
                return found
        return None

    def result(self) -> dict[str, Any] | None:
        """What results.json says of the run; None before it is finished. What was made here stands above `known`."""
        found = self.evaluation() if self.run.config.exists() and self._trained() else None
        if found is None:
            return self.known
        said = comparison.run(self.seed, self.rows(), found.scores, self.experiment)
        came_from = self.run.provenance()
        came_from.pop(
            "recipe", None
        )  # a path of this machine; the variant's configuration is beside it
        return said | {"provenance": came_from}

    def _saved(self) -> int | None:
        """Steps of the last checkpoint; None without one."""
        return max(checkpoint.steps(self.run.checkpoints), default=None)

    def _trained(self) -> bool:
        rows, saved = self.rows(), self._saved()
        if not rows or saved is None or saved < rows[-1]["steps"]:
            return False  # a kill came between a report and its checkpoint
        left = self._minutes_left()
        return saved >= self.variant.config.run.steps or (left is not None and left <= 0.02)

    def _minutes_left(self) -> float | None:
        minutes = self.experiment.minutes
        if minutes is None:
            return None
        saved = self._saved() or 0  # what was reported after it is trained again
        rows = [row for row in self.rows() if row["steps"] <= saved]
        return max(0.0, minutes - (rows[-1]["seconds"] / 60 if rows else 0.0))

    def _require_same(self) -> None:
        """Raise UserError where the folder holds a run of other settings."""
        found = self.run.read_config(self.imports)
        others = different(found, self.variant.config)
        if found.run.seed != self.seed:
            others["run.seed"] = found.run.seed, self.seed
        for key, (old, new) in others.items():
            raise UserError(
                f"'{self.run.path}' was trained with {key} = {old!r}, and the experiment says "
                f"{new!r}: choose another --run-dir"
            )


def _work(
    jobs: list[Job],
    names: list[str],
    address: str | None,
    experiment: Experiment,
    folder: Path,
    interrupts: Interrupts,
) -> bool:
    """Does all that is left of the variants with `names`; False when a signal came first."""
    left = [job for job in jobs if job.next_command() is not None]
    waiting = deque(job for job in left if job.variant.name in names)
    print(f"experiment   {experiment.name}: {len(jobs)} runs, {len(jobs) - len(left)} finished")
    print(f"folder       {folder}", flush=True)
    for job in jobs:
        made = None if job.known is None else job.result()
        if made is not None and _numbers(made) != _numbers(job.known or {}):
            print(
                f"note: {job.title}: the folder has a finished run of its own, which counts; not --known's"
            )
    _compare(jobs, experiment, folder)
    slots: list[tuple[Place, Job | None]]
    if address is None:
        shares = _shares_of_cores(experiment.parallel) if waiting else []
        slots = [(place, None) for place in shares]
    else:
        slots = [(_room_on_cluster(job), None) for job in waiting]
    try:
        return _fill(slots, waiting, jobs, experiment, folder, interrupts)
    finally:
        _stop([job for job in jobs if job.runs])  # also when one of them has failed


def _shares_of_cores(parallel: int) -> list[Cores]:
    """The cores here, dealt out to runs at a time; a line where there are fewer cores than runs."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    count = min(parallel, len(cores))
    if count < parallel:
        print(
            f"note: runs at a time: {count}, not {parallel}: each is bound to cores of its own, and "
            "there are no more here",
            flush=True,
        )
    return [Cores(cores[i::count]) for i in range(count)]


def _room_on_cluster(job: Job) -> Place:
    """What a job asks of the cluster: a core for learning and one for each runner, a GPU if it may use one."""
    config = job.variant.config
    return Cluster(1 + config.runners.num_env_runners, gpu=config.run.device != "cpu")


def _fill(
    slots: list[tuple[Place, Job | None]],
    waiting: deque[Job],
    jobs: list[Job],
    experiment: Experiment,
    folder: Path,
    interrupts: Interrupts,
) -> bool:
    """Keeps every slot busy until nothing waits; False when a signal came first."""
    told = time.monotonic()
    while True:
        for i, (place, job) in enumerate(slots):
            if job is not None and job.runs:
                continue
            if job is not None:
                _require_success(job, interrupts)
            words = None if job is None or interrupts.requested else job.next_command()
            if words is None and job is not None:
                _compare(jobs, experiment, folder)
                job = None
            if words is None and waiting and not interrupts.requested:
                job = waiting.popleft()
                words = job.next_command()
            if words is not None and job is not None:
                print(f"{time.strftime('%H:%M:%S')}     {job.title}: {words[0]}", flush=True)
                job.start(place, words)
            slots[i] = (place, job if words is not None else None)
        busy = [job for _, job in slots if job is not None]
        if not busy:
            break
        if interrupts.requested:
            return False
        if time.monotonic() - told > _STATUS_SECONDS:
            told = time.monotonic()
            for job in busy:
                _show(job, experiment.measure)
        time.sleep(_LOOK_SECONDS)
    _compare(jobs, experiment, folder, show=True)
    return not interrupts.requested


def _require_success(job: Job, interrupts: Interrupts) -> None:
    assert job.process is not None
    status = job.process.poll()
    if status == LOST and not interrupts.requested:
        job.lost()
    elif status and not interrupts.requested:
        raise RunFailed(
            f"{job.title} stopped with status {status}: {job.last_words()}; all of it is in {job.log}"
        )
    elif status == 0 and job.words[0] == "ct_rl.evaluate" and job.evaluation() is None:
        raise RunFailed(  # it would be played for ever
            f"{job.title}: its evaluation does not count, for want of {job.experiment.episodes} whole "
            "episodes of its last checkpoint: that one is damaged, or episodes were cut at "
            f"{MAX_STEPS:,} steps; all of it is in {job.log}"
        )


def _stop(busy: list[Job]) -> None:
    """Asks what runs to save and end, and waits for it."""
    for job in busy:
        assert job.process is not None
        job.process.stop()
    for job in busy:
        assert job.process is not None
        job.process.wait()


def _show(job: Job, measure: str) -> None:
    rows = job.rows()
    if rows and job.runs:
        row = rows[-1]
        value = row.get(measure)
        said = "" if value is None else f", {measure} {value:.2f}"
        print(
            f"             {job.title}: {row['steps']:,} steps, {row['seconds'] / 60:.0f} min{said}",
            flush=True,
        )


def _numbers(run: dict[str, Any]) -> dict[str, Any]:
    """What a run came to, without where it comes from and how levels are written."""
    return {key: value for key, value in run.items() if key not in ("provenance", "reached")}


def _compare(jobs: list[Job], experiment: Experiment, folder: Path, show: bool = False) -> None:
    """Writes what the finished runs say: results.json and comparison.png; `show` prints their table.

    Where none is finished any more, what earlier ones said is put aside under another name.
    """
    finished: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        found = job.result()
        if found is not None:
            finished.setdefault(job.variant.name, []).append(found)
    if not finished:
        for name in ("results.json", "comparison.png"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / name, folder / f"earlier_{name}")
        return
    results = comparison.compare(finished, experiment) | {"provenance": origin()}
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(folder / "results.json", text.encode())
    comparison.draw_comparison(folder / "comparison.png", results)
    if show:
        comparison.show(results)


if __name__ == "__main__":
    main()
