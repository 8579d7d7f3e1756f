"""Several runs, one comparison: `python -m ct_rl.experiment configs/rooms_select_rates.yaml`.

Trains every variant under every seed, evaluates each, and writes results.json, comparison.png and comparison.md into
one folder. The same command goes on where an earlier one was stopped: what is finished is kept.
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

from ct_rl import command_line, comparison, config_file
from ct_rl.comparison_table import markdown
from ct_rl.config import Text
from ct_rl.errors import DONE, INTERRUPTED, RunFailed, UserError, run_command, suggestion
from ct_rl.evaluation_file import (
    MAX_STEPS,
)
from ct_rl.experiment_file import (
    Episodes,
    Experiment,
    Minutes,
    Parallel,
    read_experiment,
)
from ct_rl.interrupts import Interrupts
from ct_rl.job import Job
from ct_rl.known_runs import read_known
from ct_rl.metrics import count_key
from ct_rl.places import LOST, Cluster, Cores, Place
from ct_rl.plain_files import write_atomically
from ct_rl.ray_session import check_cluster, ray_session
from ct_rl.reader import quoted, shown
from ct_rl.run_folder import origin, take_lock

PROG = "ct_rl.experiment"
_LOOK_SECONDS, _STATUS_SECONDS = 0.5, 60.0
_WRITTEN = ("results.json", "comparison.png", "comparison.md")


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
    for what, name in zip(("results", "picture", "table"), _WRITTEN, strict=True):
        print(f"{what:12} {folder / name}")
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
        _stop([job for job in jobs if job.runs])  # also after an error of this program


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
    """Keeps every slot busy until nothing waits; False when a signal came first.

    Raises:
        RunFailed: at the end, where runs failed; the others were finished all the same.
    """
    told = time.monotonic()
    failed: list[str] = []
    while True:
        for i, (place, job) in enumerate(slots):
            if job is not None and job.runs:
                continue
            if job is not None:
                try:
                    _require_success(job, interrupts)
                except RunFailed as error:
                    failed.append(str(error))
                    print(f"{time.strftime('%H:%M:%S')}     failed: {error}", flush=True)
                    job = None
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
    if failed and not interrupts.requested:
        more = f" (and {len(failed) - 1} more, above)" if len(failed) > 1 else ""
        raise RunFailed(f"{failed[0]}{more}; the same command tries again")
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
    """Writes what the finished runs say, `_WRITTEN`; `show` prints their table.

    Where none is finished any more, what earlier ones said is put aside under another name.
    """
    finished: dict[str, list[dict[str, Any]]] = {}
    for job in jobs:
        found = job.result()
        if found is not None:
            finished.setdefault(job.variant.name, []).append(found)
    if not finished:
        for name in _WRITTEN:
            with contextlib.suppress(FileNotFoundError):
                os.replace(folder / name, folder / f"earlier_{name}")
        return
    results = comparison.compare(finished, experiment) | {"provenance": origin()}
    text = json.dumps(results, indent=1) + "\n"
    write_atomically(folder / "results.json", text.encode())
    comparison.draw_comparison(folder / "comparison.png", results)
    write_atomically(folder / "comparison.md", markdown(results).encode())
    if show:
        comparison.show(results)


if __name__ == "__main__":
    main()
