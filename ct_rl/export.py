"""Take an agent along: `python -m ct_rl.export RUN FOLDER`.

Writes weights (safetensors), a config, a model card as the Hugging Face Hub reads it, and the newest film of the run as
`replay.mp4`. `ct_rl.load_agent(FOLDER)` acts with it, without Ray.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from tyro.conf import Positional, arg

from ct_rl import command_line
from ct_rl.errors import DONE, UserError, run_command

PROG = "ct_rl.export"
CARD, FILM = "README.md", "replay.mp4"


@dataclass
class Arguments:
    """Write a trained agent into a folder that can be loaded, shared and published."""

    run: Positional[str]
    """Folder of the run."""
    folder: Positional[str]
    """Folder to write, new or empty."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint: the last, or the one with the best mean return in training."""
    upload: Annotated[str | None, arg(metavar="OWNER/NAME")] = None
    """Also upload to this repository of the Hugging Face Hub (needs huggingface_hub and a login)."""
    imports: Annotated[list[str], arg(name="import")] = field(default_factory=list)
    """Modules to import first, which register the run's own environments, memories, encoders or losses."""


def main() -> None:
    """What `python -m ct_rl.export` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, write the folder, return the exit status."""
    given = command_line.parse(Arguments, argv, prog=PROG)
    command_line.import_modules(command_line.take_values(argv, "--import"))
    from ct_rl.agent import load_agent

    folder = Path(given.folder)
    _require_empty(folder)
    agent = load_agent(given.run, checkpoint=given.checkpoint)
    evaluation = evaluation_of(Path(given.run), agent.description.get("steps"))
    write(folder, agent, evaluation)
    film = newest(Path(given.run) / "videos", "*.mp4")
    if film is not None:
        shutil.copyfile(film, folder / FILM)
    print(f"agent        {folder}")
    if film is None:
        print(
            f"no film: make one with python -m ct_rl.evaluate {given.run} --video, and export again"
        )
    if evaluation is None:
        print(f"no score: evaluate with python -m ct_rl.evaluate {given.run}, and export again")
    if given.upload is not None:
        print(f"uploaded     {upload(folder, given.upload)}")
    return DONE


def write(folder: Path, agent: Any, evaluation: dict[str, Any] | None) -> None:
    """Writes weights, config and card; each file appears whole or not at all."""
    import safetensors.torch

    from ct_rl.agent import CONFIG, FORMAT, WEIGHTS
    from ct_rl.plain_files import write_atomically
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
    description: dict[str, Any], network: dict[str, Any], evaluation: dict[str, Any] | None
) -> str:
    """The model card: front matter that the Hub reads, then what a person wants to know."""
    env, memory = description["env"], network["memory"]
    front: dict[str, Any] = {
        "library_name": "ct_rl",
        "tags": [env, "deep-reinforcement-learning", "reinforcement-learning", "memory"],
    }
    lines = []
    if evaluation is not None:
        way, score = max(evaluation["scores"].items(), key=lambda item: item[1]["mean"])
        error = score.get("standard_error")
        value = f"{score['mean']:.2f} +/- {0.0 if error is None else error:.2f}"
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
        lines.append(
            f"Mean return {value} (standard error) over {score['episodes']} episodes, {way} actions."
        )
    steps = description.get("steps")
    if steps is not None:
        frames = steps * description.get("action_repeat", 1)
        lines.append(f"Trained for {steps:,} agent steps = {frames:,} frames.")
    options = ", ".join(f"{k}={v}" for k, v in (description.get("env_options") or {}).items())
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
            "import ct_rl, envs",
            "",
            'agent = ct_rl.load_agent("THIS FOLDER")',
            f"env = envs.make({env!r})",
            "observation, _ = env.reset()",
            "action, state = agent.act(observation)",
            "```",
            "",
            "`python -m ct_rl.evaluate 'THIS FOLDER' --episodes 20 --video` scores and films it.",
            "",
        ]
    )


def newest(folder: Path, pattern: str) -> Path | None:
    """The file of that pattern that was written last; None where there is none."""
    found = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime)
    return found[-1] if found else None


def evaluation_of(run: Path, steps: int | None) -> dict[str, Any] | None:
    """What the run's last evaluation of the checkpoint at `steps` says; None where there is none."""
    files = sorted((run / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime)
    for file in reversed(files):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            for score in found["scores"].values():
                float(score["mean"])
            if found["steps"] == steps:
                return found
        except (ValueError, KeyError, TypeError, AttributeError):
            print(f"warning: '{file}' is no evaluation: it is left out", file=sys.stderr)
    return None


def upload(folder: Path, repository: str) -> str:
    """Uploads an exported folder through `huggingface_hub`'s HfApi; returns where it is."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError("--upload needs huggingface_hub: pip install 'ct_rl[hub]'") from None
    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    return str(api.upload_folder(folder_path=str(folder), repo_id=repository))


def _require_empty(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' is not an empty folder: name a new one")


if __name__ == "__main__":
    main()
