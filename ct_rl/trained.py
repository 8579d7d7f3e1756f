"""What can be evaluated: a run's folder, one that `python -m ct_rl.export` wrote, or `pretrained:NAME`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from ct_rl import config_file
from ct_rl.config import TrainConfig
from ct_rl.errors import UserError, os_message
from ct_rl.evaluation_file import require_folder
from ct_rl.reader import shown
from ct_rl.run_folder import RunFolder

_LONGEST = 120  # of an agent's name in names of files [bytes]: these go on, and have 255
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Trained:
    """A trained agent and what its evaluation needs.

    Attributes:
        name: as the person gave it.
        config: `env` and `eval_env` are those that it was trained and is evaluated on.
        steps: of training [agent steps].
        checkpoint: the name of its checkpoint; memory: of its memory.
        home: the folder that its evaluations go to; None for what the package ships.
        network: the network for an observation and an action space; raises UserError where it is another's.
    """

    name: str
    config: TrainConfig
    steps: int
    checkpoint: str
    memory: str
    home: Path | None
    network: Callable[[gym.Space, gym.Space], Any]

    def output(self, out: str | None) -> tuple[Path, str]:
        """The folder for `evaluations/` and `videos/`, and what names of files there begin with.

        An agent that lies where nothing can be written has them in the current folder.

        Args:
            out: the folder that `--out` names.

        Raises:
            UserError: where the folder cannot be written.
        """
        if out is None and self.home is not None:
            try:
                require_folder(self.home)
                return self.home, self.checkpoint
            except UserError as error:
                if _number(error) not in _READ_ONLY:
                    raise
        here = Path(out or ".")
        try:
            here.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"--out {shown(str(here))} is a file: give a folder") from None
        except (OSError, ValueError) as error:
            why = os_message(error, "making it") if isinstance(error, OSError) else str(error)
            raise UserError(f"--out {shown(str(here))}: {why}") from None
        require_folder(here)
        agent = Path(self.name.removeprefix("pretrained:")).resolve().name or "agent"
        while len(os.fsencode(agent)) > _LONGEST:
            agent = agent[:-1]
        return here, f"{agent}_{self.checkpoint}"


def _number(error: UserError) -> int | None:
    cause = error.__cause__
    return cause.errno if isinstance(cause, OSError) else None


def open_trained(name: str, checkpoint: str, imports: Sequence[str]) -> Trained:
    """The agent of a run, of an exported folder or of the package.

    Args:
        checkpoint: of a run: "last" or "best".
        imports: what `--import` named; an agent that needs more says so.

    Raises:
        UserError: in one line, for what is neither, or damaged.
    """
    from ct_rl.agent import CONFIG, PRETRAINED, pretrained_folder

    if name.startswith(PRETRAINED):
        return _exported(name, pretrained_folder(name), None, checkpoint, imports)
    path = Path(name)
    run = RunFolder(path)
    try:
        exported, is_run = (path / CONFIG).is_file(), run.config.is_file()
        if path.is_dir() and not exported and not is_run:
            raise UserError(
                f"{shown(name)} is no run and no exported agent: it holds no config.yaml and no {CONFIG}"
            )
    except (OSError, ValueError):
        exported = is_run = False  # `require` says why
    if exported and not is_run:
        return _exported(name, path, path, checkpoint, imports)
    run.require()
    return _of_run(name, run, run.read_config(imports), checkpoint)


def _of_run(name: str, run: RunFolder, config: TrainConfig, which: str) -> Trained:
    from ct_rl import checkpoint
    from ct_rl.evaluation import load_network

    read = checkpoint.load_best if which == "best" else checkpoint.load_last
    saved, damaged = read(run.checkpoints)
    if saved is None:
        why = f" is whole: {damaged[0]}" if damaged else " was saved yet"
        raise UserError(f"no checkpoint of '{run.path}'{why}")
    checkpoint.say_damaged(damaged)
    return Trained(
        name=str(run.path),
        config=config,
        steps=saved.step,
        checkpoint=saved.path.name,
        memory=config.memory.kind,
        home=run.path,
        network=lambda observation, action: load_network(saved, observation, action),
    )


def _exported(
    name: str, folder: Path, home: Path | None, which: str, imports: Sequence[str]
) -> Trained:
    from ct_rl.agent import load_agent

    if which != "last":
        raise UserError(f"--checkpoint {which}: {shown(name)} is exported and has one only")
    agent = load_agent(folder)
    config, steps = described(agent.description, f"agent {shown(name)}", imports)

    def network(observation: gym.Space, action: gym.Space) -> Any:
        if observation != agent.observation_space or action != agent.action_space:
            raise UserError(
                f"{shown(name)} does not fit this environment: it observes "
                f"{agent.observation_space} and acts in {agent.action_space}"[:600]
            )
        return agent.net

    return Trained(
        name=name,
        config=config,
        steps=steps,
        checkpoint=f"step_{steps:012d}",
        memory=str(agent.description["network"]["memory"]),
        home=home,
        network=network,
    )


def described(
    description: Mapping[str, Any], label: str, imports: Sequence[str] | None
) -> tuple[TrainConfig, int]:
    """The environment that an agent's description names, read as strictly as a run's, and its steps.

    Raises UserError, which begins with `label`.
    """
    data = {
        "env": {
            "name": description.get("env"),
            "options": description.get("env_options") or {},
            "engine": description.get("engine") or "auto",
        },
        "eval_env": {"options": description.get("eval_options") or {}},
        "run": {"imports": description.get("imports") or []},
    }
    steps = description.get("steps")
    if type(steps) is not int or steps < 0:
        raise UserError(f"{label}: description.steps is no number of steps")
    return config_file.from_data(data, label, imports), steps
