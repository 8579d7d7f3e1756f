"""A trained agent that acts without Ray: `agent = ct_rl.load_agent(folder)`.

A folder is a run's, or one that `python -m ct_rl.export` wrote; `pretrained:NAME` is one that the package ships.
Reading any of them executes nothing that they hold.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from agents.actor_critic import ActorCritic, State
from agents.encoders import of_saved
from agents.misfits import misfit
from ct_rl import checkpoint
from ct_rl.errors import UserError, one_line
from ct_rl.plain_files import MIB, Unreadable, read_bytes, read_json
from ct_rl.reader import quoted
from ct_rl.spaces import from_plain

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
PRETRAINED = "pretrained:"
_LARGEST, _LARGEST_WEIGHTS = MIB, 2**36  # bytes of a config and of weights that are read


class Agent:
    """A network and the spaces it was trained on.

    Attributes:
        net: the network, in evaluation mode.
        observation_space, action_space: of ONE environment.
        description: what it was trained on: "env", "env_options", "steps", and whatever else was written.

    Example:
        >>> agent = ct_rl.load_agent("runs/NAME")
        >>> env = agent.make_env()
        >>> observation, _ = env.reset()
        >>> action, state = agent.act(observation)
        >>> observation, reward, *_ = env.step(action)
        >>> action, state = agent.act(observation, state)
    """

    def __init__(
        self,
        net: ActorCritic,
        observation_space: gym.Space,
        action_space: gym.Space,
        description: dict[str, Any] | None = None,
    ):
        self.net = net.eval()
        self.observation_space, self.action_space = observation_space, action_space
        self.description = dict(description or {})

    def make_env(self, **settings: Any) -> gym.Env[Any, Any]:
        """One environment of the kind that the agent was trained on, as evaluations play it: without an easier start.

        Args:
            settings: of the environment, above those.

        Raises:
            UserError: when the agent's description names no environment that can be made here.
        """
        import envs
        from ct_rl.algorithm import env_errors, env_settings, evaluation_options
        from ct_rl.trained import described

        config, _ = described(self.description, "the agent", list(sys.modules))
        options = evaluation_options(config, more=settings)
        with env_errors(config.env.name, flag=""):
            return envs.make(config.env.name, **env_settings(config.env, options))

    def initial_state(self, batch_size: int) -> State:
        """The memory of `batch_size` worlds that have seen nothing."""
        return self.net.initial_state(batch_size)

    def act(
        self,
        observation: Any,
        state: State | None = None,
        *,
        resets: Any = None,
        greedy: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Any, State]:
        """What to do now; the given state stays as it was.

        Args:
            observation: of one environment, or of B in a batch, as the environment gives them.
            state: from the step before; None at an episode's start.
            resets: bool, or bool [B]: True where the observation is a new episode's first.
            greedy: the likeliest action instead of a sample.

        Returns:
            The action as the environment takes it (a batch of B where B observations were given), and the next state.

        Raises:
            ValueError: for an observation that is not of the observation space.
        """
        single = self._is_single(observation)
        batch = _each(lambda x: np.asarray(x)[None], observation) if single else observation
        self._check(batch)
        rows = len(next(iter(_named(batch).values())))
        if state is None:
            state = self.initial_state(rows)
        begins = None if resets is None else np.asarray(resets, bool)
        if begins is not None:
            if begins.shape not in ((), (rows,)):
                raise ValueError(f"resets is {list(begins.shape)}, expected one bool, or {rows}")
            begins = np.broadcast_to(begins, rows).copy()
        actions, after = self.net.act(
            batch, state, greedy=greedy, resets=begins, generator=generator
        )
        return (actions[0] if single else actions), after

    def _is_single(self, observation: Any) -> bool:
        shapes = {name: np.shape(x) for name, x in _named(observation).items()}
        wanted = {name: space.shape for name, space in _named(self.observation_space).items()}
        if shapes == wanted:
            return True
        if {name: shape[1:] for name, shape in shapes.items()} == wanted and all(shapes.values()):
            return False
        raise ValueError(f"the observation is {shapes}, expected {wanted}, or a batch of them")

    def _check(self, batch: Any) -> None:
        """Refuses what the network would read as something else, or what would stay in the memory for good."""
        found = misfit(self.observation_space, batch, lead=1)
        if found is not None:
            raise ValueError("the observation{} is {}".format(*found))
        parts = _named(batch)
        for name, space in _named(self.observation_space).items():
            x, whole = np.asarray(parts[name]), np.dtype(space.dtype).kind in "iub"
            of = f"the observation's part {name!r}" if name else "the observation"
            if whole and x.dtype.kind not in "iub":
                raise ValueError(
                    f"{of} is of {x.dtype}, expected {space.dtype}, as the environment gives it"
                )
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise ValueError(f"{of} holds NaN or infinity")


def load_agent(folder: str | Path, *, checkpoint: str = "last") -> Agent:
    """The agent in a run's folder, an exported one, or `pretrained:NAME`.

    Args:
        checkpoint: of a run: "last", or "best" by its mean return in training.

    Raises:
        UserError: for a folder that holds no agent, or a damaged one.
    """
    pretrained = str(folder).startswith(PRETRAINED)
    path = pretrained_folder(str(folder)) if pretrained else Path(folder)
    if checkpoint not in ("last", "best"):
        raise UserError(f"checkpoint {checkpoint!r}: choose 'last' or 'best'")
    if (path / CONFIG).is_file():
        if checkpoint != "last":
            raise UserError(f"checkpoint {checkpoint!r}: '{folder}' is exported and has one only")
        return _exported(path)
    return _of_run(path, checkpoint)


def pretrained_names() -> list[str]:
    """The agents that the package ships."""
    root = resources.files("ct_rl") / "pretrained"
    if not root.is_dir():
        return []
    return sorted(item.name for item in root.iterdir() if (item / CONFIG).is_file())


def pretrained_folder(name: str) -> Path:
    """Where the package has `pretrained:NAME`; raises UserError that lists what there is."""
    known = pretrained_names()
    short = name.removeprefix(PRETRAINED)
    if short not in known:
        raise UserError(
            f"no pretrained agent {quoted(short)}: the package ships {', '.join(known) or 'none'}"
        )
    return Path(str(resources.files("ct_rl") / "pretrained" / short))


def _exported(path: Path) -> Agent:
    config: Any = None
    try:  # what the Hub downloads are links into its cache
        config = read_json(path / CONFIG, _LARGEST, links=True)
        if config["format"] != FORMAT:
            raise ValueError(f"format {config['format']!r} is not {FORMAT}")
        observation, action = (
            from_plain(config[key]) for key in ("observation_space", "action_space")
        )
        weights = safetensors.torch.load(read_bytes(path / WEIGHTS, _LARGEST_WEIGHTS, links=True))
        with torch.device("meta"):  # a config may ask for any size: sizes first, memory after
            settings = of_saved(config["network"], observation)
            sketch = ActorCritic(observation, action, **settings).state_dict()
        for key, value in sketch.items():
            if key not in weights or weights[key].shape != value.shape:
                raise ValueError(f"{key} is not what {CONFIG} says")
        net = ActorCritic(observation, action, **settings)
        net.load_state_dict(weights)
        return Agent(
            net, observation, action, {**config["description"], "network": config["network"]}
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError, OSError,
            SafetensorError, Unreadable) as error:  # fmt: skip
        raise UserError(
            f"'{path}' holds no agent that can be read: {one_line(error)[:200]}{_to_import(config)}"
        ) from None


def _to_import(config: Any) -> str:
    """Words about modules that an agent's description names and nobody imported, which may be why it cannot be read."""
    description = config.get("description") if isinstance(config, dict) else None
    named = description.get("imports") if isinstance(description, dict) else None
    listed = named if isinstance(named, list) else []
    missing = [one[:80] for one in listed if isinstance(one, str) and one not in sys.modules]
    if not missing:
        return ""
    from ct_rl.config_file import how_to_import

    return f"; it needs {', '.join(missing)}: {how_to_import(missing)}"


def _of_run(path: Path, which: str) -> Agent:
    from ct_rl.algorithm import portable_options, probe_env
    from ct_rl.evaluation import load_network
    from ct_rl.run_folder import RunFolder

    run = RunFolder(path)
    run.require()
    config = run.read_config()
    read = checkpoint.load_best if which == "best" else checkpoint.load_last
    saved, damaged = read(run.checkpoints)
    if saved is None:
        raise UserError(
            f"no checkpoint of '{path}' is whole" + "".join(f": {d}" for d in damaged[:1])
        )
    checkpoint.say_damaged(damaged)
    probe = probe_env(config.env)
    net = load_network(saved, probe.observation_space, probe.action_space)
    description = {
        "env": config.env.name,
        "env_options": portable_options(config.env),
        "eval_options": portable_options(config.env, config.eval_env.options),
        "imports": list(config.run.imports),
        "engine": probe.facts.engine,
        "steps": saved.step,
        "action_repeat": probe.facts.action_repeat,
        "network": saved.meta["network"],
    }
    return Agent(net, probe.observation_space, probe.action_space, description)


def _named(value: Any, name: str = "") -> dict[str, Any]:
    """The parts of a (nested) observation or Dict space, by their names."""
    if isinstance(value, dict | gym.spaces.Dict):
        return {
            key: leaf
            for own in sorted(value)
            for key, leaf in _named(value[own], f"{name}.{own}" if name else str(own)).items()
        }
    return {name: value}


def _each(change: Any, observation: Any) -> Any:
    if isinstance(observation, dict):
        return {key: _each(change, part) for key, part in observation.items()}
    return change(observation)
