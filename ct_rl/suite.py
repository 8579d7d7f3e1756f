"""The score over a suite of levels: `python -m ct_rl.suite RUN [RUN ...]` after each was evaluated.

For every level of DMLab-30 among the runs: mean return, random play's and people's, and the human-normalised score,
capped at 100; below, the mean of the capped scores over the levels (IMPALA, arXiv 1802.01561, section 5.3).
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from tyro.conf import Positional

from ct_rl import command_line, config_file
from ct_rl.config import EnvConfig, Text, TrainConfig
from ct_rl.errors import DONE, UserError, run_command
from ct_rl.evaluation_file import FOLDER, evaluation_files, played_otherwise, read_evaluation
from ct_rl.plain_files import read_json, require_writable, write_new
from ct_rl.reader import shown
from ct_rl.run_folder import RunFolder

PROG = "ct_rl.suite"


@dataclass
class Arguments:
    """Human-normalised scores of evaluated runs, level by level, and their mean."""

    runs: Positional[list[Text]]
    """Folders of runs, or evaluation files; several of a level count with their mean return."""
    actions: Literal["sampled", "greedy"] = "sampled"
    """Which way of acting counts."""
    json: Text | None = None
    """Also write the scores to this file."""


def main() -> None:
    """What `python -m ct_rl.suite` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags and the evaluations, print the table, return the exit status."""
    given = command_line.parse(Arguments, argv, prog=PROG)
    if not given.runs:
        raise UserError("no runs given: name folders of runs that were evaluated")
    if given.json is not None:
        require_writable(Path(given.json), "--json")
    returns: dict[str, list[float]] = {}
    found = [_evaluation(Path(name)) for name in given.runs]
    for file in {file.resolve(): file for file in found}.values():  # each once
        level, mean = _score(file, given.actions)
        returns.setdefault(level, []).append(mean)
    scores = suite(returns)
    _table(scores)
    if given.json is not None:
        write_new(Path(given.json), json.dumps(scores, indent=1) + "\n", "--json")
    return DONE


def suite(returns: dict[str, list[float]]) -> dict[str, Any]:
    """Scores of each level from the mean returns of its runs, and the suite's."""
    from envs.dmlab.levels import DMLAB30, find_level, normalised_score, suite_score

    means = {level: fmean(values) for level, values in returns.items()}
    tested = {find_level(level).name for level in means}
    return {
        "levels": {
            level: {
                "runs": len(returns[level]),
                "mean_return": mean,
                "random": find_level(level).random,
                "human": find_level(level).human,
                "human_normalised": normalised_score(level, mean),
                "capped": normalised_score(level, mean, cap=100),
            }
            for level, mean in sorted(means.items())
        },
        "mean_capped_human_normalised": suite_score(means),
        "missing": [level for level in DMLAB30 if level not in tested],
    }


def _evaluation(path: Path) -> Path:
    """The evaluation that counts: the file itself, or a run's newest of the level as it is.

    Where that is none of the level as it is, a line says what it was played with.
    """
    found = _by_time(path)
    for file in reversed(found):
        try:
            if not _otherwise(file):
                return file
        except UserError as error:
            if file == found[-1]:
                raise
            print(f"warning: {error}; it is left out", file=sys.stderr)
    newest = found[-1]
    print(f"note: '{newest}' is not of the level as it is: {', '.join(_otherwise(newest))}")
    return newest


def _otherwise(file: Path) -> list[str]:
    """What an evaluation was played with beside the level; beside its defaults where its agent is not there to say."""
    found = read_evaluation(file)
    config = _environment(file.parent.parent) if file.parent.name == FOLDER else None
    if config is None:
        config = TrainConfig(env=EnvConfig(found.env))
    return played_otherwise(found, config)


def _environment(home: Path) -> TrainConfig | None:
    """What a run or an exported agent says of its environment; None where neither can be read."""
    from ct_rl.agent import CONFIG
    from ct_rl.trained import described

    run = RunFolder(home)
    try:
        if run.config.is_file():
            return config_file.read_run_environment(run.config)
        return described(read_json(home / CONFIG)["description"], "the agent", None)[0]
    except (UserError, OSError, LookupError, TypeError, AttributeError):
        return None


def _by_time(path: Path) -> list[Path]:
    """The evaluations of a run, the oldest first; or the one that is named."""
    try:
        if not path.is_dir():
            return [path]
        found = sorted(evaluation_files(path), key=lambda file: file.stat().st_mtime)
    except (OSError, ValueError):
        raise UserError(f"run {shown(str(path))} not found") from None
    if not found:
        again = shlex.join(["python", "-m", "ct_rl.evaluate", str(path)])
        raise UserError(f"no evaluation in '{path}': make one with {again}")
    return found


def _score(path: Path, way: str) -> tuple[str, float]:
    """Level and mean return of an evaluation."""
    from envs.dmlab.levels import level_of

    evaluation = read_evaluation(path)
    level = level_of(evaluation.env)
    if level is None:
        raise UserError(f"'{path}' is of {evaluation.env[:80]}, which is no level of DMLab-30")
    if way not in evaluation.scores:
        raise UserError(f"'{path}' has no {way} actions: evaluate with --actions {way}")
    mean = evaluation.scores[way]["mean"]
    assert mean is not None  # read_evaluation's
    return level, mean


def _table(scores: dict[str, Any]) -> None:
    heads = ("runs", "return", "random", "human", "score [%]", "capped [%]")
    width = max(map(len, scores["levels"]))
    print(" ".join([f"{'level':{width}}", *(f"{head:>10}" for head in heads)]))
    for level, score in scores["levels"].items():
        runs, *numbers = score.values()
        print(" ".join([f"{level:{width}}", f"{runs:10}", *(f"{n:10.2f}" for n in numbers)]))
    missing = f"; {len(scores['missing'])} of DMLab-30 missing" if scores["missing"] else ""
    print(
        f"mean capped human-normalised score {scores['mean_capped_human_normalised']:.2f} % "
        f"(levels: {len(scores['levels'])}{missing})"
    )


if __name__ == "__main__":
    main()
