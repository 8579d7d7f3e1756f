"""The film of an evaluated agent: which environment is filmed, with or without its memory beside it, and the GIF."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ct_rl.errors import RunFailed, UserError, one_line
from ct_rl.trained import Trained

if TYPE_CHECKING:
    from ct_rl.evaluate import Arguments


def film(
    net: Any,
    agent: Trained,
    given: Arguments,
    settings: dict[str, Any],
    facts: Any,
    way: str,
    path: Path,
) -> bool:
    """Film some episodes; where that cannot be, says so in a line and returns False: the scores are written."""
    from ct_rl import video
    from ct_rl.display import counting
    from ct_rl.evaluation import film as play

    env = None
    try:
        env = filmed_env(agent.config.env.name, given.attention, settings)
        with counting(f"video ({way} actions)", given.video_episodes, "episodes") as count:
            moments = play(
                net,
                env,
                given.video_episodes,
                seed=given.seed,
                greedy=way == "greedy",
                max_steps=given.max_steps,
                watch=given.attention,
            )
            draw = _attention_film(net, agent.memory, env).compose if given.attention else None
            video.write(path, _counted(moments, count), facts.fps * given.speed, draw)
    except (UserError, RunFailed, ValueError, OSError) as error:
        print(f"note: no video: {one_line(error)[:300]}", flush=True)
        return False
    finally:
        if env is not None:
            env.close()
    return True


def filmed_env(name: str, attention: bool, settings: dict[str, Any]) -> Any:
    """The environment to film; with --attention one that draws nothing is shown by its observation."""
    import envs
    from ct_rl.algorithm import env_errors

    try:
        with env_errors(name, flag=""):
            return envs.make(name, render_mode="rgb_array", **settings)
    except UserError as error:
        if not attention:
            raise
        with env_errors(name, flag=""):
            env = envs.make(name, **settings)
        print(f"note: the film shows the observation, no picture: {one_line(error)[:200]}")
        return env


def _attention_film(net: Any, memory: str, env: Any) -> Any:
    from ct_rl.attention_film import AttentionFilm
    from ct_rl.insight import attends

    attending = attends(net)
    if not attending:
        print(f"note: memory '{memory}' has no attention: the film shows value, policy and rewards")
    horizon = net.core.context_length if attending else None
    return AttentionFilm(memory, horizon, env.metadata.get("map_outlines", ()))


def gif(video_file: Path) -> None:
    from ct_rl import video

    path = video_file.with_suffix(".gif")
    try:
        video.write_gif(path, video_file)
    except RunFailed as error:
        print(f"note: no GIF: {one_line(error)[:300]}", flush=True)
    else:
        print(f"gif          {path}")


def _counted(moments: Any, count: Any) -> Any:
    for moment in moments:
        yield moment
        if moment.last:
            count()
