"""Score a trained run and film it: `python -m ct_rl.evaluate RUN --episodes 20 --video`.

The level is evaluated as it is, even when training used an easier start; `--as-trained` keeps the latter.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ct_rl import checkpoint, command_line
from ct_rl.config import Options, TrainConfig
from ct_rl.errors import DONE, UserError, run_command
from ct_rl.run_folder import RunFolder

PROG = "ct_rl.evaluate"


@dataclass
class Arguments:
    """Score a trained run: a table, JSON in the run's evaluations/, and a video on request."""

    run: Positional[str]
    """Folder of the run."""
    episodes: int = 20
    """Episodes for each way of acting [count]."""
    actions: Literal["both", "sampled", "greedy"] = "both"
    """Ways of acting: sampled from the policy, greedy (the likeliest action), or both in turn."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint: the last, or the one with the best mean return in training."""
    seed: int = 0
    """Seed of environments and actions; evaluation's environment seeds are never training's."""
    video: bool = False
    """Also write an H.264 video into the run's videos/."""
    video_episodes: int = 3
    """Episodes in the video [count]."""
    speed: float = 1.0
    """Speed of the video; 1 is real time."""
    as_trained: bool = False
    """Use the environment settings of training instead of the level as it is."""
    engine: str | None = None
    """Engine of DeepMind Lab's levels: auto, embedded or deepmind_lab; the run's own when absent."""
    env_option: Annotated[Options, arg(name="env-option")] = field(default_factory=dict)
    """Further settings of the environment."""


def main() -> None:
    """What `python -m ct_rl.evaluate` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, play, report, return the exit status."""
    given = command_line.parse(Arguments, argv, prog=PROG)
    for flag in ("episodes", "video_episodes"):
        if getattr(given, flag) < 1:
            raise UserError(
                f"--{flag.replace('_', '-')} {getattr(given, flag)} is too small: give 1 or more"
            )
    if not 0.01 <= given.speed <= 100:
        raise UserError(f"--speed {given.speed:g} is out of range: give 0.01 to 100")
    if given.seed < 0:
        raise UserError(f"--seed {given.seed} is too small: give 0 or more")
    run = RunFolder(Path(given.run))
    run.require()
    config = run.read_config()
    if ":" in config.env.name:
        # gymnasium imports what stands before the colon: a stranger's run must not choose that.
        raise UserError(
            f"'{run.config}' names the environment {config.env.name!r}, which would import a module: "
            "import it yourself and register it under a plain name"
        )
    return _evaluate(given, run, config, _load(run, given.checkpoint))


def _load(run: RunFolder, which: str) -> checkpoint.Checkpoint:
    read = checkpoint.load_best if which == "best" else checkpoint.load_last
    saved, damaged = read(run.checkpoints)
    if saved is None:
        why = f" is whole: {damaged[0]}" if damaged else " was saved yet"
        raise UserError(f"no checkpoint of '{run.path}'{why}")
    for line in damaged:
        print(f"warning: {line}; falling back", file=sys.stderr)
    return saved


def _settings(given: Arguments, config: TrainConfig) -> dict[str, Any]:
    from ct_rl.algorithm import env_settings, lasting_options

    if given.engine is not None:
        config.env.engine = given.engine
    options = config.env.options if given.as_trained else config.eval_env.options
    options = {**lasting_options(config), **options, **given.env_option}
    if given.as_trained and "stagger" in options:
        options["stagger"] = False  # a first episode cut short is no episode to score
    return env_settings(config.env, options)


def _evaluate(
    given: Arguments, run: RunFolder, config: TrainConfig, saved: checkpoint.Checkpoint
) -> int:
    import envs
    from ct_rl.algorithm import env_errors
    from ct_rl.evaluation import load_network, summarise, worlds_for
    from ct_rl.scores import env_facts

    settings = _settings(given, config)
    with env_errors(config.env.name):
        env = envs.make_vec(config.env.name, worlds_for(given.episodes), **settings)
    try:
        facts = env_facts(env.metadata)
        net = load_network(saved, env.single_observation_space, env.single_action_space)
        _describe(given, config, saved, settings, facts)
        played = {
            way: _play(net, env, given, way, facts)
            for way in (("sampled", "greedy") if given.actions == "both" else (given.actions,))
        }
    finally:
        env.close()
    report: dict[str, Any] = {
        "run": str(run.path),
        "checkpoint": saved.path.name,
        "steps": saved.step,
        "frames": saved.step * facts.action_repeat,
        "env": config.env.name,
        "engine": facts.engine,
        "env_options": {key: value for key, value in settings.items() if key != "engine"},
        "seed": given.seed,
        "scores": {way: summarise(episodes, facts) for way, episodes in played.items()},
        "episodes": played,
    }
    _table(report["scores"])
    name = f"{saved.path.name}_seed{given.seed}"
    if given.engine is not None:
        name += f"_{facts.engine}"
    if given.video:
        way = max(report["scores"], key=lambda key: report["scores"][key]["mean"])
        path = run.videos / f"{name}_{way}.mp4"
        _film(net, config, given, settings, facts, way, path)
        report["video"] = str(path)
        print(f"video        {path}")
    path = run.path / "evaluations" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    checkpoint.write_atomically(path, json.dumps(report, indent=1).encode())
    print(f"scores       {path}")
    return DONE


def _play(net: Any, env: Any, given: Arguments, way: str, facts: Any) -> list[dict[str, float]]:
    from ct_rl.display import counting
    from ct_rl.evaluation import play

    with counting(f"{way} actions", given.episodes, "episodes") as count:
        return play(
            net,
            env,
            given.episodes,
            seed=given.seed,
            greedy=way == "greedy",
            metrics=facts.episode_metrics,
            on_episode=count,
        )


def _film(
    net: Any,
    config: TrainConfig,
    given: Arguments,
    settings: dict[str, Any],
    facts: Any,
    way: str,
    path: Path,
) -> None:
    import envs
    from ct_rl import video
    from ct_rl.algorithm import env_errors
    from ct_rl.display import counting
    from ct_rl.evaluation import film

    with env_errors(config.env.name):
        env = envs.make(config.env.name, render_mode="rgb_array", **settings)
    try:
        with counting(f"video ({way} actions)", given.video_episodes, "episodes") as count:
            moments = film(net, env, given.video_episodes, seed=given.seed, greedy=way == "greedy")
            video.write(path, _counted(moments, count), facts.fps * given.speed)
    finally:
        env.close()


def _counted(moments: Any, count: Any) -> Any:
    for moment in moments:
        yield moment
        if moment.action == "end":
            count()


def _describe(
    given: Arguments, config: TrainConfig, saved: Any, settings: dict[str, Any], facts: Any
) -> None:
    options = {key: value for key, value in settings.items() if key != "engine"}
    engine = f" ({facts.engine} engine)" if facts.engine else ""
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    print(f"environment  {config.env.name}{engine}, {shown or 'as it is'}")
    print(f"checkpoint   {saved.path.name}: {saved.step:,} agent steps, "
          f"{saved.step * facts.action_repeat:,} frames", flush=True)  # fmt: skip


def _table(scores: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = (
        ("mean", "mean return", "{:.2f}"),
        ("standard_error", "standard error", "{:.2f}"),
        ("median", "median", "{:.2f}"),
        ("best", "best", "{:.2f}"),
        ("human_normalised", "human-normalised [%]", "{:.1f}"),
        ("teleports", "teleports / episode", "{:.2f}"),
        ("trials", "trials / episode", "{:.2f}"),
        ("correct", "correct / episode", "{:.2f}"),
        ("wrong", "wrong / episode", "{:.2f}"),
        ("choice_accuracy", "accuracy of choices", "{:.2f}"),
        ("length", "episode length [steps]", "{:.0f}"),
        ("episodes", "episodes", "{:d}"),
    )
    table = Table()
    table.add_column("")
    for way in scores:
        table.add_column(f"{way} actions", justify="right")
    for key, label, form in rows:
        cells = [score.get(key) for score in scores.values()]
        if any(cell is not None for cell in cells):
            table.add_row(label, *("-" if cell is None else form.format(cell) for cell in cells))
    Console().print(table)


if __name__ == "__main__":
    main()
