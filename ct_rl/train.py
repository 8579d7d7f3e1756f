"""Train a memory agent: `python -m ct_rl.train --env dmlab_rooms_select --rate 4`.

Writes a run folder and goes on until `--steps`, `--minutes` or Ctrl-C; `--resume RUN` goes on later.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from ct_rl import command_line, config_file
from ct_rl.config import EnvConfig, EvalEnvConfig, Text, TrainConfig, check, resolve_reward_clip
from ct_rl.errors import DONE, INTERRUPTED, UserError, run_command
from ct_rl.freed_memory import keep_freed_memory
from ct_rl.interrupts import Interrupts
from ct_rl.memory.options import idle_options
from ct_rl.run_folder import RunFolder, fresh_path, origin
from ct_rl.sections import (
    KIND,
    auxiliary_section,
    foreign_option,
    idle_option,
    memory_section,
)
from ct_rl.tracking import require_tracker

PROG = "ct_rl.train"
RECIPE = "rooms_select"
_FIXED = (
    "env.",
    "memory.",
    "network.",
    "auxiliary",
    "training.algorithm",
    "training.optimizer",
    "run.seed",
    "run.run_dir",
)  # what a resumed run keeps

_TOLD_ON_RESUME = ("started", "ct_rl", "git_commit", "platform", "cpus")


@dataclass
class Arguments(TrainConfig):
    """Train a memory agent with IMPALA, APPO or PPO on Ray RLlib.

    Flags stand above the recipe, the recipe above the defaults. 1 agent step is `action repeat` frames.
    """

    config: Annotated[Text | None, arg(prefix_name=False)] = None
    """Recipe: a YAML file or the name of a shipped one; rooms_select when absent and --env is its own."""
    resume: Annotated[Text | None, arg(prefix_name=False)] = None
    """Run folder to go on with: counters, optimiser, schedules and random state continue."""
    track: Annotated[Literal["wandb", "trackio"] | None, arg(prefix_name=False)] = None
    """Also send every report to Weights & Biases or Trackio (needs that extra); the login is the package's own."""
    losses: Annotated[list[Text], arg(name="auxiliary", prefix_name=False)] = field(
        default_factory=list
    )
    """Auxiliary losses to learn beside the task, by name, in place of a recipe's, or `none`; the flags
    --auxiliary.NAME.OPTION are theirs."""


def main() -> None:
    """What `python -m ct_rl.train` runs."""
    sys.exit(run_command(lambda: command(command_line.program_arguments())))


def command(argv: list[str]) -> int:
    """Read the flags, train, return the exit status."""
    keep_freed_memory()  # before any thread begins
    imports = command_line.take_values(argv, "--import")
    command_line.import_modules(imports)
    track = command_line.flag_value(argv, "--track")
    require_tracker(track)
    resume = command_line.flag_value(argv, "--resume")
    if resume is not None:
        return _resume(Path(resume), argv, imports, track)
    config, recipe = _new_config(argv, imports)
    check(config)
    return _train(config, recipe=recipe, track=track)


def _new_config(argv: list[str], imports: list[str]) -> tuple[TrainConfig, str | None]:
    recipe = command_line.flag_value(argv, "--config")
    env = command_line.flag_value(argv, "--env")
    source = None
    data: dict[str, Any] = {}
    if recipe is not None:
        data, source = config_file.read_data(recipe)
    elif RECIPE in config_file.recipe_names():
        shipped, where = config_file.read_data(RECIPE)
        if env in (None, shipped["env"]["name"]):
            data, source = shipped, where
    named = config_file.label(source or "")
    config_file.from_data(data, named, imports)  # what it says must be right as it stands
    chosen, left_out = _chosen(argv, data)
    base = config_file.from_data(chosen, named)
    if env not in (None, base.env.name):
        if base.env != EnvConfig(base.env.name) or base.eval_env.options:
            print(f"note: {source}'s settings of {base.env.name} are left out")
        base.env = EnvConfig()
        base.eval_env = EvalEnvConfig()
    elif source is not None:
        from ct_rl.algorithm import fit_options

        fit_options(base, command_line.flag_value(argv, "--engine"), source)
    config = _parse(argv, base, imports)
    if left_out:
        kind = config.memory.kind
        print(f"note: memory {kind} has no {', '.join(left_out)}: {source}'s are left out")
    if config.run.ray_address != command_line.flag_value(argv, "--ray-address"):
        raise UserError(f"{source} names a Ray cluster: join it with --ray-address, or take it out")
    return config, source


def _parse(argv: list[str], base: TrainConfig, imports: list[str]) -> TrainConfig:
    """The configuration that the flags give on top of `base`."""
    memory = getattr(base.memory, KIND)
    sections = {"memory": type(base.memory), "auxiliary": type(base.auxiliary)}
    values = {item.name: getattr(base, item.name) for item in fields(TrainConfig)}
    parsed = command_line.parse(
        Arguments,
        argv,
        prog=PROG,
        default=Arguments(**values),
        sections=sections,
        foreign=lambda flag: _foreign(flag, memory),
    )
    _refuse_idle(argv, parsed.memory)
    module, colon, _ = parsed.env.name.partition(":")
    # gymnasium imports it here; what goes on with the run is to name it.
    parsed.run.imports = list(dict.fromkeys([*imports, *([module] if colon else [])]))
    return TrainConfig(**{name: getattr(parsed, name) for name in values})


def _refuse_idle(argv: list[str], memory: Any) -> None:
    """Raise UserError for a flag of the memory that does nothing beside its other options; a recipe may have them."""
    named = command_line.named_fields(argv, Arguments, {"memory": type(memory)})
    for option, other in idle_options(type(memory), vars(memory)).items():
        flag = named.get(("memory", option))
        if flag is not None:
            raise UserError(idle_option(flag, f"--memory.{other}"))


def _chosen(argv: list[str], data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A recipe with the memory and the losses that the flags choose, and the options that the memory has not."""
    above: dict[str, Any] = {}
    kind = command_line.flag_value(argv, "--memory")
    if kind is not None:
        with config_file.named("--memory"):
            memory_section(kind)
        above["memory"] = {KIND: kind}
    losses = command_line.take_values(argv, "--auxiliary")
    if losses:
        losses = [] if losses == ["none"] else losses
        with config_file.named("--auxiliary"):
            auxiliary_section(losses)
        above["auxiliary"] = {name: {} for name in losses}
    return config_file.over(data, above)


def _foreign(flag: str, kind: str) -> str | None:
    """One line about a flag of a memory's option that this one has not."""
    if flag.startswith("--auxiliary."):
        name = flag.split(".")[1]
        return f"{flag}: choose the loss first: --auxiliary {name}"
    option = flag.removeprefix("--memory.")
    if option == flag and flag != "--rate":
        return None
    return foreign_option(kind, option.removeprefix("--").replace("-", "_"))


def _resume(path: Path, argv: list[str], imports: list[str], track: str | None) -> int:
    if command_line.flag_value(argv, "--config") is not None:
        raise UserError("--resume takes the run's own configuration: leave --config out")
    RunFolder(path).require()
    before = RunFolder(path).read_config(imports)
    before.run.minutes = None  # the clock's end was that start's, not the run's
    if before.run.ray_address is not None:
        # Ray speaks pickle with a cluster, and a run may be a stranger's: its address is a record, no order.
        before.run.ray_address = None
        if command_line.flag_value(argv, "--ray-address") is None:
            print("note: the run was on a Ray cluster; give --ray-address to join one again")
    chosen, _ = _chosen(argv, config_file.to_plain(before))
    base = config_file.from_data(chosen, config_file.label(str(path)))
    config = _parse(argv, base, imports)
    for key, (old, new) in config_file.changes(before, config).items():
        if key.startswith(_FIXED):
            raise UserError(
                f"--resume {path}: the run has {key} = {old!r}, not {new!r}; "
                "leave it out, or start a new run"
            )
    check(config)
    return _train(config, resume=path, track=track)


def _train(
    config: TrainConfig,
    *,
    recipe: str | None = None,
    resume: Path | None = None,
    track: str | None = None,
) -> int:
    with Interrupts(_unanswered) as interrupts:
        # Heavy imports come after everything that can be wrong with the flags alone.
        from ct_rl import algorithm

        probe = algorithm.probe(config)
        resolve_reward_clip(config)
        if resume:
            algorithm.drop_unused_encoder(config, probe)
        parameters = algorithm.check_network(config, probe)
        gpu = algorithm.use_gpu(config.run.device)
        if config.run.ray_address is not None:
            from ct_rl import ray_session

            ray_session.check_cluster(config.run.ray_address)
        algorithm.check_algorithm(config)
        run = RunFolder.open(resume) if resume else _create(config)
        try:
            return _in_folder(config, run, recipe, probe, parameters, gpu, interrupts, track)
        finally:
            run.close()


def _unanswered() -> str:
    from ct_rl.ray_session import unanswered

    return unanswered()


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
    track: str | None,
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
            f"go on with --resume {shlex.quote(str(run.path))} --steps {2 * saved.step}"
        )
    _describe(config, run, recipe, probe, parameters, gpu)
    if saved is None:
        _write_config(config, run, recipe, probe, parameters)
    title = f"{config.env.name}, {config.memory.kind} memory, {run.path}"
    with (
        ray_session(
            config.runners.num_env_runners + config.runners.num_learners,
            int(gpu) * max(1, config.runners.num_learners),
            config.run.ray_address,
        ),
        open_display(config.run.steps, title, probe.facts.episode_metrics) as display,
    ):
        algo = build_algorithm(config)
        try:
            trainer = Trainer(
                config, run, algo, Progress(probe.facts), display, interrupts, rows, track
            )
            if saved is not None:
                trainer.restore(saved)
                # Only now: a setting that it cannot go on with is not to stay.
                _write_config(config, run, recipe, probe, parameters, saved.step)
                display.note(f"going on from {saved.path}")
            interrupts.arm()
            met = trainer.train()
            if not met:  # said before the way out, which somebody may cut short
                display.note(
                    f"interrupted at step {trainer.progress.steps:,}, saved; go on with:\n"
                    f"  {_command(config, run, track)}"
                )
                return INTERRUPTED
        except KeyboardInterrupt:
            display.note(
                f"stopped without saving; go on from the last checkpoint with:\n"
                f"  {_command(config, run, track)}"
            )
            return INTERRUPTED
        finally:
            algo.stop()
    return _farewell(config, trainer)


def _saved(run: RunFolder) -> tuple[Any, list[dict[str, Any]]]:
    """The checkpoint to go on from and the reports up to it, with a word about every damaged one."""
    from ct_rl import checkpoint

    saved, damaged = checkpoint.load_last(run.checkpoints)
    if damaged and saved is None:
        raise UserError(f"no checkpoint of '{run.path}' is whole: {damaged[0]}")
    checkpoint.say_damaged(damaged)
    if saved is None and run.metrics.exists():
        raise UserError(f"'{run.path}' holds metrics but no checkpoint: nothing to go on from")
    if saved is None and run.config.exists():
        print(f"'{run.path}' stopped before its first checkpoint: it begins at step 0")
    return saved, run.cut_metrics(saved.step) if saved else []


def _write_config(
    config: TrainConfig,
    run: RunFolder,
    recipe: str | None,
    probe: Any,
    parameters: int,
    resumed_at: int | None = None,
) -> None:
    """The configuration, and where the run comes from: what a resumed one said of its beginning stays."""
    written = config_file.parse(config_file.dump(config), str(run.config))
    written.run.run_dir = None
    written.env.engine = probe.facts.engine or config.env.engine
    now = origin(
        recipe=recipe,
        engine=probe.facts.engine,
        engine_asked=config.env.engine,
        env_settings=probe.facts.settings,
        action_repeat=probe.facts.action_repeat,
        parameters=parameters,
    )
    began = {} if resumed_at is None else run.provenance()
    if began:
        before = began.get("resumed")
        again = {"step": resumed_at, **{key: now[key] for key in _TOLD_ON_RESUME}}
        now = {**began, "resumed": [*(before if isinstance(before, list) else []), again]}
    run.write_config(written, now)


def _describe(
    config: TrainConfig, run: RunFolder, recipe: str | None, probe: Any, parameters: int, gpu: bool
) -> None:
    import torch

    from agents.precision import has_bfloat16
    from ct_rl.algorithm import learns_in_bfloat16

    facts, runners, goal = probe.facts, config.runners, config.run.steps
    if recipe:
        print(f"recipe       {recipe}")
    engine = f" ({facts.engine} engine)" if facts.engine else ""
    many = runners.num_env_runners
    places = (
        "this process" if many == 0 else "one runner" if many == 1 else f"each of {many} runners"
    )
    print(f"environment  {config.env.name}{engine}, {runners.envs_per_runner} in {places}")
    print(f"rewards      clipped for learning: {config.network.reward_clip}")
    where = "a GPU" if gpu else "the CPU"
    if learns_in_bfloat16(config):
        slow = not gpu and not has_bfloat16()
        where += " in bfloat16" + (", which this processor may have to emulate" if slow else "")
    print(f"memory       {config.memory.kind}, network of {parameters:,} parameters, "
          f"learning on {where}")  # fmt: skip
    if not gpu and (threads := torch.get_num_threads()) > 1:
        print(f"threads      {threads}; OMP_NUM_THREADS=1 is faster where other programs run")
    print(f"goal         {goal:,} agent steps = {goal * facts.action_repeat:,} frames")
    print(f"run folder   {run.path}", flush=True)


def _farewell(config: TrainConfig, trainer: Any) -> int:
    run, steps = trainer.run, trainer.progress.steps
    repeat = trainer.progress.facts.action_repeat
    print(f"done         {steps:,} agent steps = {steps * repeat:,} frames")
    print(f"curves       {run.curves}")
    print(f"checkpoint   {trainer.saved}")
    words = ["python", "-m", "ct_rl.evaluate", str(run.path), "--episodes", "20", "--video"]
    print(f"evaluate     {shlex.join([*words, *_imports(config)])}")
    print(
        f"go on        {_command(config, run, trainer.track, '--steps', str(max(2 * steps, config.run.steps)))}"
    )
    return DONE


def _imports(config: TrainConfig) -> list[str]:
    return ["--import", *config.run.imports] if config.run.imports else []


def _command(config: TrainConfig, run: RunFolder, track: str | None, *more: str) -> str:
    """The command that goes on with a run, as a shell takes it."""
    tracked = ["--track", track] if track else []
    words = ["python", "-m", PROG, "--resume", str(run.path), *more, *tracked, *_imports(config)]
    return shlex.join(words)


if __name__ == "__main__":
    main()
