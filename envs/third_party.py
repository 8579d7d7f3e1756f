"""Third-party memory benchmarks: what registers their gymnasium ids, which extra installs them, what they need."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from envs.adapt import Adapted
from envs.errors import MissingDependencyError


class Package(NamedTuple):
    """A package of environments.

    Attributes:
        title: its name for people.
        ids: how its gymnasium ids begin.
        module: what registers them when it is imported.
        install: what installs it.
        variables: environment variables it needs, where nobody has set them.
        own_process: whether every environment needs a process of its own.
        litters: whether environments write files into the current folder.
    """

    title: str
    ids: tuple[str, ...]
    module: str
    install: str
    variables: Mapping[str, str] = {}
    own_process: bool = False
    litters: bool = False


_SILENT = {"PYGAME_HIDE_SUPPORT_PROMPT": "1"}
PACKAGES = (
    Package("MiniGrid", ("MiniGrid-", "BabyAI-"), "minigrid", "'ct_rl[minigrid]'", _SILENT),
    Package("POPGym", ("popgym-",), "popgym", "'ct_rl[popgym]'"),
    Package(
        "ViZDoom",
        ("Vizdoom",),
        "vizdoom.gymnasium_wrapper",
        "'ct_rl[vizdoom]'",
        _SILENT,
        litters=True,
    ),
    # Two MiniWorlds in one process draw each other's walls; without a display they draw through EGL.
    Package(
        "MiniWorld",
        ("MiniWorld-",),
        "miniworld",
        "'ct_rl[miniworld]'",
        {} if os.environ.get("DISPLAY") else {"PYGLET_HEADLESS": "1"},
        own_process=True,
    ),
    # It pins old versions of gymnasium and pygame that it does not need, hence --no-deps.
    Package(
        "Memory Gym",
        (
            "MortarMayhem",
            "MysteryPath",
            "SearingSpotlights",
            "Endless-MortarMayhem",
            "Endless-MysteryPath",
            "Endless-SearingSpotlights",
        ),
        "memory_gym",
        "'ct_rl[memory-gym]' and then pip install --no-deps memory-gym",
        {**_SILENT, "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"},
    ),
    # A reset takes seconds: in processes of their own environments do not wait for each other.
    Package(
        "Memory Maze",
        ("MemoryMaze-",),
        "envs.memory_maze",
        "'ct_rl[memory-maze]'",
        own_process=True,
    ),
)


def package_of(name: str) -> Package | None:
    """The package that a gymnasium id belongs to, by how it begins."""
    return next((item for item in PACKAGES if name.startswith(item.ids)), None)


def enter(name: str) -> Package | None:
    """Registers the ids of the package that `name` belongs to, if it belongs to one.

    Raises:
        MissingDependencyError: where its package is not installed.
    """
    found = package_of(name)
    if found is None:
        return None
    _set_absent(found.variables)
    try:
        import_module(found.module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is of {found.title}, which cannot be imported ({error}): "
            f"pip install {found.install}"
        ) from error
    return found


def draw_off_screen() -> None:
    """Pictures need neither display nor sound, of whose absence SDL and ALSA would tell on standard error."""
    variables = {**_SILENT, "SDL_AUDIODRIVER": "dummy"}
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        variables["SDL_VIDEODRIVER"] = "dummy"
    _set_absent(variables)


def _set_absent(variables: Mapping[str, str]) -> None:
    for variable, value in variables.items():
        os.environ.setdefault(variable, value)


class Tidy(gym.Wrapper):
    """Resets an environment inside a temporary folder of this process, for games that write where they start."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        here = os.getcwd()
        os.chdir(_litter_folder())
        try:
            return self.env.reset(**kwargs)
        finally:
            os.chdir(here)


@functools.cache
def _litter_folder() -> str:
    folder = tempfile.mkdtemp(prefix="ct_rl-game-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def wrappers(package: Package | None) -> list[type[gym.Wrapper]]:
    """What stands around an environment of a package, or of none."""
    return [Tidy, Adapted] if package is not None and package.litters else [Adapted]


def check_render_mode(name: str, mode: str | None) -> None:
    """Raises ValueError where an id's environment has no such render mode."""
    point = gym.spec(name).entry_point
    creator = load_env_creator(point) if isinstance(point, str) else point
    modes = getattr(creator, "metadata", {}).get("render_modes")
    if mode is not None and modes is not None and mode not in modes:
        raise ValueError(f"{name} draws no pictures of kind {mode!r}: it knows {modes or 'none'}")
