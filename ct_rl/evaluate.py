"""Score a trained agent and film it: `python -m ct_rl.evaluate RUN --episodes 20 --video`.

The level is evaluated as it is, even when training used an easier start; `--as-trained` keeps the latter.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from tyro.conf import Positional, arg

from ct_rl import command_line
from ct_rl.config import Options, Text, TrainConfig
from ct_rl.errors import DONE, RunFailed, UserError, one_line, run_command
from ct_rl.evaluation_file import MAX_STEPS
from ct_rl.trained import Trained, open_trained

PROG = "ct_rl.evaluate"


@dataclass
class Arguments:
    """Score a trained agent: a table, JSON in evaluations/, and a video on request."""

    run: Positional[Text]
    """Folder of a run or of an exported agent, or pretrained:NAME."""
    episodes: Annotated[int, Ge(1), Le(10**6)] = 20
    """Episodes for each way of acting [count]."""
    actions: Literal["both", "sampled", "greedy"] = "both"
    """Ways of acting: sampled from the policy, greedy (the likeliest action), or both in turn."""
    checkpoint: Literal["last", "best"] = "last"
    """Which checkpoint: the last, or the one with the best mean return in training."""
    seed: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    """Seed of environments and actions; evaluation's environment seeds are never training's."""
    video: bool = False
    """Also write an H.264 video into videos/."""
    video_episodes: Annotated[int, Ge(1), Le(1000)] = 3
    """Episodes in the video [count]."""
    attention: bool = False
    """Beside the video's view, what the memory does: attention, the frames behind it, saliency, value, policy, map."""
    gif: bool = False
    """Also write a small GIF of the video's first seconds."""
    speed: Annotated[float, Ge(0.01), Le(100)] = 1.0
    """Speed of the video; 1 is real time."""
    as_trained: bool = False
    """Use the environment settings of training instead of the level as it is."""
    max_steps: Annotated[int, Ge(1), Le(10**9)] = MAX_STEPS
    """Steps after which an episode is cut, for environments that never end [agent steps]."""
    engine: Text | None = None
    """Engine of DeepMind Lab's levels: auto, embedded or deepmind_lab; the run's own when absent."""
    env_option: Annotated[Options, arg(name="env-option")] = field(default_factory=dict)
    """Further settings of the environment."""
    out: Text | None = None
    """Folder for evaluations/ and videos/; the agent's own when absent, or the current one where that is read-only."""
    imports: Annotated[list[Text], arg(name="import")] = field(default_factory=list)
    """Modules to import first, which register the run's own environments, memories, encoders or losses."""


def main() -> None:
    """What `python -m ct_rl.evaluate` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, play, report, return the exit status."""
    given = command_line.parse_importing(Arguments, argv, prog=PROG)
    for name in ("attention", "gif", "video_episodes", "speed"):
        if getattr(given, name) != getattr(Arguments, name) and not given.video:
            raise UserError(f"--{name.replace('_', '-')} is of the video: give --video too")
    return _evaluate(given, open_trained(given.run, given.checkpoint, given.imports))


def _settings(given: Arguments, config: TrainConfig) -> dict[str, Any]:
    import envs
    from ct_rl.algorithm import env_settings, evaluation_options, fit_options

    if given.engine is not None:
        if not envs.has_engines(config.env.name):
            raise UserError(
                f"--engine {given.engine}: {config.env.name} has no engines: leave it out"
            )
        config.env.engine = given.engine
    if "render_mode" in given.env_option:
        raise UserError(
            f"--env-option render_mode={given.env_option['render_mode']}: what is drawn goes into a film: "
            "give --video instead"
        )
    if given.as_trained:
        fit_options(config, given.engine, "the run")
    options = evaluation_options(config, given.as_trained, given.env_option)
    return env_settings(config.env, options)


def _evaluate(given: Arguments, agent: Trained) -> int:
    import envs
    from agents.acting import check_autoreset
    from ct_rl.algorithm import env_errors
    from ct_rl.evaluation import score_episodes, worlds_for
    from ct_rl.evaluation_file import new_evaluation, write_evaluation
    from ct_rl.scores import env_facts

    config = agent.config
    settings = _settings(given, config)
    with env_errors(config.env.name, flag=""):
        env = envs.make_vec(config.env.name, worlds_for(given.episodes), **settings)
    try:
        with env_errors(config.env.name, flag=""):
            check_autoreset(env)
        facts = env_facts(env.metadata)
        net = agent.network(env.single_observation_space, env.single_action_space)
        frames = agent.steps * _training_repeat(config, settings, facts)
        _describe(agent, settings, facts, frames)
        home, name = agent.output(given.out)
        name += f"_seed{given.seed}"
        if given.engine is not None:
            name += f"_{facts.engine}"
        path = None
        report: dict[str, Any] = {
            "run": agent.name,
            "checkpoint": agent.checkpoint,
            "steps": agent.steps,
            "frames": frames,
            "env": config.env.name,
            "engine": facts.engine,
            "env_options": {key: value for key, value in settings.items() if key != "engine"},
            "seed": given.seed,
            "max_steps": given.max_steps,
            "scores": {},
            "episodes": {},
        }
        for way in ("sampled", "greedy") if given.actions == "both" else (given.actions,):
            episodes = _play(net, env, given, way, facts)
            report["episodes"][way] = episodes
            report["scores"][way] = score_episodes(episodes, facts)
            # At once: nothing that follows can lose it.
            if path is None:
                path = new_evaluation(home, name, report)
            else:
                write_evaluation(path, report)
    finally:
        env.close()
    assert path is not None  # there is a way of acting
    _table(report["scores"], facts.episode_metrics)
    _say_cut(report["scores"], given)
    print(f"scores       {path}", flush=True)
    seen = _attention(net, agent, given, settings)
    if seen:
        report["memory"] = seen
        write_evaluation(path, report)
    if given.video:
        from ct_rl import filming

        way = max(report["scores"], key=lambda key: report["scores"][key]["mean"])
        watched = "_attention" if given.attention else ""
        film = home / "videos" / f"{path.stem}_{way}{watched}.mp4"
        if filming.film(net, agent, given, settings, facts, way, film):
            report["video"] = str(film)
            write_evaluation(path, report)
            print(f"video        {film}")
            if given.gif:
                filming.gif(film)
    return DONE


def _say_cut(scores: dict[str, dict[str, Any]], given: Arguments) -> None:
    cut = sum(score["unfinished"] or 0 for score in scores.values())
    if cut:
        print(
            f"note: {cut} episodes were cut at {given.max_steps:,} steps and count as they stood; the worlds that "
            "played them played no more (--max-steps sets the limit)"
        )
    lost = sum(score["lost"] or 0 for score in scores.values())
    if lost:
        print(
            f"note: episodes lost because their worlds died: {lost}; they are in no score, and others were played for "
            "them"
        )


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
            max_steps=given.max_steps,
            on_episode=count,
        )


def _attention(
    net: Any, agent: Trained, given: Arguments, settings: dict[str, Any]
) -> dict[str, Any]:
    """Where the memory looked in one more episode; where that cannot be, a line, and the scores are written."""
    import envs
    from ct_rl.algorithm import env_errors
    from ct_rl.memory_attention import attention_of_episode

    env = None
    try:
        with env_errors(agent.config.env.name, flag=""):
            env = envs.make_vec(agent.config.env.name, 1, **settings)
        return attention_of_episode(net, env, seed=given.seed, greedy=given.actions == "greedy")
    except (UserError, RunFailed, ValueError, RuntimeError) as error:
        print(f"note: no look at the memory: {one_line(error)[:300]}", flush=True)
        return {}
    finally:
        if env is not None:
            env.close()


def _training_repeat(config: TrainConfig, settings: dict[str, Any], facts: Any) -> int:
    """Frames that a step of training lasted, where an option of the evaluation may have another number."""
    from ct_rl.algorithm import probe_env

    key = "action_repeat"
    if settings.get(key) == config.env.options.get(key):
        return facts.action_repeat
    return probe_env(config.env).facts.action_repeat


def _describe(agent: Trained, settings: dict[str, Any], facts: Any, frames: int) -> None:
    options = {key: value for key, value in settings.items() if key != "engine"}
    engine = f" ({facts.engine} engine)" if facts.engine else ""
    shown = ", ".join(f"{key}={value}" for key, value in options.items())
    print(f"environment  {agent.config.env.name}{engine}, {shown or 'as it is'}")
    print(
        f"checkpoint   {agent.checkpoint}: {agent.steps:,} agent steps, {frames:,} frames",
        flush=True,
    )


def _table(scores: dict[str, dict[str, Any]], counts: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ct_rl.metrics import SCORE, evaluated, ordered

    keys = {key for score in scores.values() for key, value in score.items() if value is not None}
    rows = sorted(ordered(keys, counts), key=lambda row: row.group != SCORE)  # the scores first
    table = Table()
    table.add_column("")
    for way in scores:
        table.add_column(f"{way} actions", justify="right")
    for row in rows:
        cells = [score.get(row.key) for score in scores.values()]
        table.add_row(
            evaluated(row).label, *("-" if cell is None else row.text(cell) for cell in cells)
        )
    Console().print(table, markup=False)


if __name__ == "__main__":
    main()
