"""Runs that differ only in their seed are one group; what groups differ in names them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ct_rl import config_file
from ct_rl.colours import Look, looks, memory_of
from ct_rl.report.material import Run

# Settings that change nothing of what is learned.
_BOOKKEEPING = ("seed", "run_dir", "ray_address", "imports", "report_seconds", "checkpoint_minutes",
                "curves_seconds")  # fmt: skip
_LONGEST = 60


@dataclass
class Group:
    """Runs of the same settings.

    Attributes:
        name: short, what it differs from the other groups in.
        look: its colour and dashes, everywhere.
        settings: `section.field: value`, without the seed.
        method: what is left of the settings without the environment and the length of the run.
    """

    name: str
    look: Look
    runs: list[Run]
    settings: dict[str, Any]

    @property
    def env(self) -> str:
        return self.runs[0].env

    @property
    def memory(self) -> str:
        """Its memory, and its rate where it has one."""
        return _memory(self.settings)

    @property
    def method(self) -> str:
        left = {key: value for key, value in self.settings.items()
                if not key.startswith(("env.", "eval_env.", "run."))}  # fmt: skip
        return _key(left)

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The groups of some runs, in the order of their first ones, runs by seed."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_key(_settings(run)), []).append(run)
    members = [sorted(own, key=lambda run: run.seed) for own in found.values()]
    settings = [_settings(own[0]) for own in members]
    memories = [memory_of({"kind": s.get("memory.kind"), "rate": s.get("memory.rate")})
                for s in settings]  # fmt: skip
    names, envs = _names(settings), [own[0].env for own in members]
    return [
        Group(*parts) for parts in zip(names, looks(memories, envs), members, settings, strict=True)
    ]


def differences(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """The settings that the groups do not share, with the value of each group; None where it has none."""
    return _varied([group.settings for group in groups])


def _settings(run: Run) -> dict[str, Any]:
    plain = config_file.to_plain(run.config)
    plain["run"] = {k: v for k, v in plain["run"].items() if k not in _BOOKKEEPING}
    return _flat(plain)


def _flat(plain: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{above}{key}.")
        else:
            flat[f"{above}{key}"] = value
    return flat


def _key(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, default=str)


def _varied(settings: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for one in settings for key in one)
    rows = {key: [one.get(key) for one in settings] for key in keys}
    return {key: row for key, row in rows.items() if any(value != row[0] for value in row)}


def _memory(settings: dict[str, Any]) -> str:
    kind, rate = settings.get("memory.kind"), settings.get("memory.rate")
    return str(kind) if rate is None else f"{kind}, rate {rate}"


def _names(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The memory and its rate where they differ, and of what else differs no more than tells the groups apart."""
    envs = [one.get("env.name") for one in settings]
    names = []
    for one, env in zip(settings, envs, strict=True):
        beside = [other for other in settings if other.get("env.name") == env]
        alike = [other for other in beside if _memory(other) == _memory(one)]
        parts = [_memory(one)] if len(alike) < len(beside) or len(alike) == 1 else []
        for key in _varied(alike):
            parts.append(f"{key.rpartition('.')[2]} {one.get(key)}")
            alike = [other for other in alike if other.get(key) == one.get(key)]
            if len(alike) == 1:
                break
        if len(set(envs)) > 1:
            parts.append(str(env))
        name = ", ".join(parts)
        names.append(name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}...")
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
