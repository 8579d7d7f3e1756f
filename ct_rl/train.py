"""Train a memory agent: `python -m ct_rl.train --env dmlab_rooms_select --rate 4`.

Writes a run folder and goes on until `--steps`, `--minutes` or Ctrl-C; `--resume RUN` goes on later.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from ct_rl import checkpoint, command_line, config_file
from ct_rl.config import TrainConfig, check
from ct_rl.errors import DONE, INTERRUPTED, UserError, run_command
from ct_rl.interrupts import Interrupts
from ct_rl.run_folder import RunFolder, fresh_path, provenance

PROG = "ct_rl.train"
RECIPE = "rooms_select"
_FIXED = (
    "env.",
    "memory.",
    "network.",
    "training.algorithm",
    "run.seed",
    "run.run_dir",
)  # what a resumed run keeps


@dataclass
class Arguments(TrainConfig):
    """Train a memory agent with IMPALA, APPO or PPO on Ray RLlib.

    Flags stand above the recipe, the recipe above the defaults. 1 agent step is `action repeat` frames.
    """

    config: Annotated[str | None, arg(prefix_name=False)] = None
    """Recipe: a YAML file or the name of a shipped one; rooms_select when absent and --env is its own."""
    resume: Annotated[str | None, arg(prefix_name=False)] = None
    """Run folder to go on with: counters, optimiser, schedules and random state continue."""


def main() -> None:
    """What `python -m ct_rl.train` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, train, return the exit status."""
    resume = command_line.flag_value(argv, "--resume")
    if resume is not None:
        return _resume(Path(resume), argv)
    config, recipe = _new_config(argv)
    check(config)
    return _train(config, recipe=recipe)


def _new_config(argv: list[str]) -> tuple[TrainConfig, str | None]:
    recipe = command_line.flag_value(argv, "--config")
    env = command_line.flag_value(argv, "--env")
    source = None
    base = TrainConfig()
    if recipe is not None:
        base, source = config_file.read_recipe(recipe)
    elif RECIPE in config_file.recipe_names():
        shipped, where = config_file.read_recipe(RECIPE)
        if env in (None, shipped.env.name):
            base, source = shipped, where
    if env not in (None, base.env.name):
        base.env.options = {}  # settings of another environment
        base.eval_env.options = {}
    elif source is not None:
        _fit_options(base, command_line.flag_value(argv, "--engine"), source)
    return _parse(argv, base), source


def _fit_options(config: TrainConfig, engine: str | None, source: str) -> None:
    """Leaves out, and names, a recipe's settings of the room task that the real engine has not."""
    if config.env.name != "dmlab_rooms_select":
        return
    from envs.dmlab.make import available
    from envs.dmlab.settings import setting_names

    chosen = engine or config.env.engine
    if chosen not in ("auto", "deepmind_lab") or not available():
        return  # a missing engine is refused later, in a line of its own
    for options in (config.env.options, config.eval_env.options):
        for key in sorted(set(options) - set(setting_names())):
            print(f"note: deepmind_lab has no setting {key!r}: {source}'s is left out")
            del options[key]


def _parse(argv: list[str], base: TrainConfig) -> TrainConfig:
    values = {item.name: getattr(base, item.name) for item in fields(TrainConfig)}
    parsed = command_line.parse(Arguments, argv, prog=PROG, default=Arguments(**values))
    return TrainConfig(**{name: getattr(parsed, name) for name in values})


def _resume(path: Path, argv: list[str]) -> int:
    if command_line.flag_value(argv, "--config") is not None:
        raise UserError("--resume takes the run's own configuration: leave --config out")
    RunFolder(path).require()
    before = RunFolder(path).read_config()
    before.run.minutes = None  # the clock's end was that start's, not the run's
    config = _parse(argv, before)
    for key, (old, new) in config_file.changes(before, config).items():
        if key.startswith(_FIXED):
            raise UserError(
                f"--resume {path}: the run has {key} = {old!r}, not {new!r}; "
                "leave it out, or start a new run"
            )
    check(config)
    return _train(config, resume=path)


def _train(config: TrainConfig, *, recipe: str | None = None, resume: Path | None = None) -> int:
    with Interrupts() as interrupts:
        # Heavy imports come after everything that can be wrong with the flags alone.
        from ct_rl import algorithm, ray_session

        probe = algorithm.probe_env(config.env)
        parameters = algorithm.check_network(config, probe)
        gpu = algorithm.use_gpu(config.run.device)
        if config.run.ray_address is not None:
            ray_session.check_cluster(config.run.ray_address)
        run = RunFolder.open(resume) if resume else _create(config)
        try:
            return _in_folder(config, run, recipe, probe, parameters, gpu, interrupts)
        finally:
            run.close()


def _create(config: TrainConfig) -> RunFolder:
    return RunFolder.create(Path(config.run.run_dir) if config.run.run_dir else fresh_path(config))


def _in_folder(
    config: TrainConfig,
    run: RunFolder,
    recipe: str | None,
    probe: Any,
    parameters: int,
    gpu: bool,
    interrupts: Interrupts,
) -> int:
    from ct_rl.algorithm import build_algorithm
    from ct_rl.display import open_display
    from ct_rl.progress import Progress
    from ct_rl.ray_session import ray_session
    from ct_rl.trainer import Trainer

    saved, rows = _saved(run)
    if saved is not None and saved.step >= config.run.steps:
        raise UserError(
            f"run '{run.path}' has its {saved.step:,} of {config.run.steps:,} steps: "
            f"go on with --resume {run.path} --steps {2 * saved.step}"
        )
    _describe(config, run, recipe, probe, parameters, gpu)
    _write_config(config, run, recipe, probe, parameters)
    title = f"{config.env.name}, {config.memory.kind} memory, {run.path}"
    with (
        ray_session(
            config.runners.num_env_runners + config.runners.num_learners,
            int(gpu) * max(1, config.runners.num_learners),
            config.run.ray_address,
        ),
        open_display(config.run.steps, title) as display,
    ):
        algo = build_algorithm(config)
        try:
            trainer = Trainer(config, run, algo, Progress(probe.facts), display, interrupts, rows)
            if saved is not None:
                trainer.restore(saved)
                display.note(f"going on from {saved.path}")
            interrupts.arm()
            met = trainer.train()
        except KeyboardInterrupt:
            display.note(
                f"stopped without saving; go on from the last checkpoint with:\n"
                f"  python -m {PROG} --resume {run.path}"
            )
            return INTERRUPTED
        finally:
            algo.stop()
    return _farewell(config, trainer, met)


def _saved(run: RunFolder) -> tuple[checkpoint.Checkpoint | None, list[dict[str, Any]]]:
    """The checkpoint to go on from and the reports up to it, with a word about every damaged one."""
    saved, damaged = checkpoint.load_last(run.checkpoints)
    if damaged and saved is None:
        raise UserError(f"no checkpoint of '{run.path}' is whole: {damaged[0]}")
    for line in damaged:
        print(f"warning: {line}; falling back", file=sys.stderr)
    if saved is None and run.metrics.exists():
        raise UserError(f"'{run.path}' holds metrics but no checkpoint: nothing to go on from")
    if saved is None and run.config.exists():
        print(f"'{run.path}' stopped before its first checkpoint: it begins at step 0")
    return saved, run.cut_metrics(saved.step) if saved else []


def _write_config(
    config: TrainConfig, run: RunFolder, recipe: str | None, probe: Any, parameters: int
) -> None:
    written = config_file.parse(config_file.dump(config), str(run.config))
    written.run.run_dir = None
    written.env.engine = probe.facts.engine or config.env.engine
    run.write_config(
        written,
        provenance(
            recipe=recipe,
            engine=probe.facts.engine,
            engine_asked=config.env.engine,
            env_settings=probe.facts.settings,
            action_repeat=probe.facts.action_repeat,
            parameters=parameters,
        ),
    )


def _describe(
    config: TrainConfig, run: RunFolder, recipe: str | None, probe: Any, parameters: int, gpu: bool
) -> None:
    facts, runners, goal = probe.facts, config.runners, config.run.steps
    if recipe:
        print(f"recipe       {recipe}")
    engine = f" ({facts.engine} engine)" if facts.engine else ""
    print(f"environment  {config.env.name}{engine}, {runners.envs_per_runner} in each of "
          f"{max(1, runners.num_env_runners)} runners")  # fmt: skip
    print(f"memory       {config.memory.kind}, network of {parameters:,} parameters, "
          f"learning on {'a GPU' if gpu else 'the CPU'}")  # fmt: skip
    print(f"goal         {goal:,} agent steps = {goal * facts.action_repeat:,} frames")
    print(f"run folder   {run.path}", flush=True)


def _farewell(config: TrainConfig, trainer: Any, met: bool) -> int:
    run, steps = trainer.run, trainer.progress.steps
    if not met:
        print(
            f"interrupted at step {steps:,}, saved; go on with:\n"
            f"  python -m {PROG} --resume {run.path}"
        )
        return INTERRUPTED
    repeat = trainer.progress.facts.action_repeat
    print(f"done         {steps:,} agent steps = {steps * repeat:,} frames")
    print(f"curves       {run.curves}")
    print(f"checkpoint   {trainer.saved}")
    print(f"evaluate     python -m ct_rl.evaluate {run.path} --episodes 20 --video")
    print(
        f"go on        python -m {PROG} --resume {run.path} --steps {max(2 * steps, config.run.steps)}"
    )
    return DONE


if __name__ == "__main__":
    main()
