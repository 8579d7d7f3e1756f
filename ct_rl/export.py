"""Take an agent along: `python -m ct_rl.export RUN FOLDER`.

Writes weights (safetensors), a config, a model card as the Hugging Face Hub reads it, and the newest film of the run as
`replay.mp4`. `ct_rl.load_agent(FOLDER)` acts with it, without Ray.
"""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from tyro.conf import Positional, arg

from ct_rl import command_line
from ct_rl.errors import DONE, RunFailed, UserError, one_line, run_command
from ct_rl.evaluation_file import FOLDER, Evaluation, played_otherwise, read_evaluation
from ct_rl.plain_files import write_atomically
from ct_rl.trained import described

PROG = "ct_rl.export"
_ANEW = "then export again, into a new folder"
CARD, FILM, ONNX = "README.md", "replay.mp4", "policy.onnx"


@dataclass
class Arguments:
    """Write a trained agent into a folder that can be loaded, shared and published."""

    run: Positional[str]
    """Folder of the run."""
    folder: Positional[str]
    """Folder to write, new or empty."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint: the last, or the one with the best mean return in training."""
    onnx: bool = False
    """Also write policy.onnx, one acting step with its memory as inputs and outputs (needs the extra onnx)."""
    upload: Annotated[str | None, arg(metavar="OWNER/NAME")] = None
    """Also upload to this repository of the Hugging Face Hub (needs the extra hub, and HF_TOKEN or a login)."""
    imports: Annotated[list[str], arg(name="import")] = field(default_factory=list)
    """Modules to import first, which register the run's own environment, memory or encoder."""


def main() -> None:
    """What `python -m ct_rl.export` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, write the folder, return the exit status."""
    given = command_line.parse_importing(Arguments, argv, prog=PROG)
    from ct_rl.agent import load_agent

    folder = Path(given.folder)
    _require_empty(folder)
    if given.upload is not None:
        require_hub(given.upload)  # before any work
    if given.onnx:
        from ct_rl.onnx_file import require_packages

        require_packages()
    agent = load_agent(given.run, checkpoint=given.checkpoint)
    steps = int(agent.description.get("steps") or 0)
    evaluation = evaluation_of(Path(given.run), agent.description)
    made = None
    if given.onnx:
        from ct_rl.onnx_file import to_onnx

        made = to_onnx(agent)  # before anything is written: it may be refused
    write(folder, agent, evaluation)
    if made is not None:
        write_atomically(folder / ONNX, made.content)
    film = _film(given.run, steps)
    if film is not None:
        shutil.copyfile(film, folder / FILM)
    print(f"agent        {folder}")
    if made is not None:
        batch = "any batch" if made.any_batch else "batches of one"
        print(f"onnx         {folder / ONNX}: takes {batch}; {made.steps} steps as in torch, "
              f"{made.apart:.1g} apart at most")  # fmt: skip
    imports = agent.description.get("imports") or []
    if film is None:
        print(
            f"no film of this checkpoint: {_play(given.run, imports, '--video')} makes one; {_ANEW}"
        )
    if evaluation is None:
        print(f"no score of this checkpoint: {_play(given.run, imports)} makes one; {_ANEW}")
    if given.upload is not None:
        print(f"uploaded     {upload(folder, given.upload)}")
    return DONE


def _film(run: str, steps: int) -> Path | None:
    """The newest film of a run's checkpoint, or the one that an exported agent has beside it."""
    from ct_rl.agent import PRETRAINED, pretrained_folder

    folder = pretrained_folder(run) if run.startswith(PRETRAINED) else Path(run)
    made = newest(folder / "videos", f"step_{steps:012d}*.mp4")
    beside = folder / FILM
    return made or (beside if beside.is_file() and not beside.is_symlink() else None)


def _play(folder: str, imports: Sequence[str], *flags: str) -> str:
    """The command that evaluates what is in `folder`, as a shell takes it."""
    more = ["--import", *imports] if imports else []
    return shlex.join(["python", "-m", "ct_rl.evaluate", folder, *flags, *more])


def write(folder: Path, agent: Any, evaluation: Evaluation | None) -> None:
    """Writes weights, config and card; each file appears whole or not at all."""
    import safetensors.torch

    from ct_rl.agent import CONFIG, FORMAT, WEIGHTS
    from ct_rl.spaces import to_plain

    description = dict(agent.description)
    network = {
        **description.pop("network"),
        "auxiliary": {},
    }  # what only training needs stays behind
    config = {
        "format": FORMAT,
        "network": network,
        "observation_space": to_plain(agent.observation_space),
        "action_space": to_plain(agent.action_space),
        "description": description,
    }
    weights = {
        key: x.contiguous()
        for key, x in agent.net.state_dict().items()
        if not key.startswith("auxiliary.")
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / WEIGHTS, safetensors.torch.save(weights))
    write_atomically(folder / CARD, card(description, network, evaluation).encode())
    write_atomically(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def card(
    description: dict[str, Any], network: dict[str, Any], evaluation: Evaluation | None
) -> str:
    """The model card: front matter that the Hub reads, then what a person wants to know."""
    env, memory = description["env"], network["memory"]
    front: dict[str, Any] = {
        "library_name": "ct_rl",
        "tags": [env, "deep-reinforcement-learning", "reinforcement-learning", "memory"],
    }
    lines = []
    if evaluation is not None:
        way, score = max(evaluation.scores.items(), key=lambda item: item[1]["mean"] or -math.inf)
        error = score.get("standard_error")
        value = f"{score['mean']:.2f} +/- {0.0 if error is None else error:.2f}"
        episodes = score.get("episodes")
        front["model-index"] = [
            {
                "name": f"{memory} memory",
                "results": [
                    {
                        "task": {
                            "type": "reinforcement-learning",
                            "name": "reinforcement-learning",
                        },
                        "dataset": {"name": env, "type": env},
                        "metrics": [{"type": "mean_reward", "value": value, "name": "mean_reward"}],
                    }
                ],
            }
        ]
        over = f" over {episodes:,.0f} episodes" if episodes else ""
        played = _pairs(evaluation.env_options)
        lines.append(
            f"Mean return {value} (standard error){over}, {way} actions, "
            f"{f'environment with {played}' if played else 'the environment as it is'}."
        )
    steps = description.get("steps")
    if steps is not None:
        frames = steps * description.get("action_repeat", 1)
        lines.append(f"Trained for {steps:,} agent steps = {frames:,} frames.")
    options = _pairs(description.get("env_options"))
    imports = description.get("imports") or []
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            f"# {memory} memory on {env}",
            "",
            *lines,
            *([f"Settings of the environment in training: {options}."] if options else []),
            "",
            "```python",
            *(f"import {name}" for name in ("ct_rl", *imports)),
            "",
            'agent = ct_rl.load_agent("THIS FOLDER")',
            "env = agent.make_env()",
            "observation, _ = env.reset()",
            "action, state = agent.act(observation)",
            "```",
            "",
            f"`{_play('THIS FOLDER', imports, '--episodes', '20', '--video')}` scores and films it.",
            "",
        ]
    )


def newest(folder: Path, pattern: str) -> Path | None:
    """The file of that pattern that was written last; None where there is none."""
    found = _by_time(folder, pattern)
    return found[-1] if found else None


def _by_time(folder: Path, pattern: str) -> list[Path]:
    """The regular files of that pattern, the oldest first; a link could lead to another's file."""
    found = [file for file in folder.glob(pattern) if file.is_file() and not file.is_symlink()]
    return sorted(found, key=lambda file: file.stat().st_mtime)


def evaluation_of(folder: Path, description: Mapping[str, Any]) -> Evaluation | None:
    """The last evaluation of the checkpoint that the description is of, one of the level as it is before any other."""
    found: list[Evaluation] = []
    for file in reversed(_by_time(folder / FOLDER, "[!.]*.json")):
        try:
            found.append(read_evaluation(file))
        except UserError as error:
            print(f"warning: {error}; it is left out", file=sys.stderr)
    found = [each for each in found if each.steps == int(description.get("steps") or 0)]
    if not found:
        return None
    config, _ = described(description, "the agent", None)
    return next((each for each in found if not played_otherwise(each, config)), found[0])


def require_hub(repository: str) -> None:
    """Raises UserError where an upload could not even begin: no package, no login, no name."""
    owner, slash, name = repository.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise UserError(f"--upload {repository[:80]!r}: expected OWNER/NAME")
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise UserError("--upload needs huggingface_hub: pip install 'ct_rl[hub]'") from None
    if get_token() is None:
        raise UserError("--upload needs a login: set HF_TOKEN, or run 'hf auth login' once")


def upload(folder: Path, repository: str) -> str:
    """Uploads an exported folder through `huggingface_hub`'s HfApi; returns where it is.

    Raises:
        RunFailed: one line, where the Hub refuses it or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repo_id=repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=str(folder)))
    except (OSError, ValueError, RuntimeError) as error:  # its HTTP errors are OSErrors
        raise RunFailed(
            f"uploading failed: {one_line(error)[:300]}; the folder '{folder}' is whole"
        ) from error


def _pairs(settings: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key}={value}" for key, value in (settings or {}).items())


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' is not an empty folder: name a new one")


if __name__ == "__main__":
    main()
