"""A rollout fragment: T steps of N environments and ONE memory snapshot, the only thing a runner ships.

Shapes: N environments (rows), T steps. Rows run on across episode ends: `resets` marks where an episode
begins, and nothing is padded.

An environment that ends an episode at step t (gymnasium's NEXT_STEP autoreset) shows its last observation
at t + 1, where the action is ignored, and its new episode's first at t + 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import tree
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from agents.module import RESETS

IGNORED = "ignored"


@dataclass
class Fragment:
    """What N environments did in T steps.

    Attributes:
        obs: [N, T + 1, ...] arrays (or a dict of them); the last one is only for bootstrapping.
        actions: [N, T, ...].
        rewards: [N, T] float32, raw.
        log_probs: [N, T] float32, of the actions under the acting policy.
        terminateds, truncateds: bool [N, T].
        ignored: bool [N, T], True where the environment was only being reset and ignored the action.
        resets: bool [N, T + 1], True where `obs` is the first of an episode.
        state: the memory BEFORE obs[:, 0], batch first, N rows.
        weights_seq_no: version of the weights that acted.
    """

    obs: Any
    actions: np.ndarray
    rewards: np.ndarray
    log_probs: np.ndarray
    terminateds: np.ndarray
    truncateds: np.ndarray
    ignored: np.ndarray
    resets: np.ndarray
    state: dict[str, np.ndarray]
    weights_seq_no: int

    def __len__(self) -> int:
        """Environment steps taken (resets are none)."""
        return int(self.ignored.size - self.ignored.sum())

    @property
    def ends(self) -> np.ndarray:
        """bool [N, T], True where a step ended an episode."""
        return self.terminateds | self.truncateds

    @property
    def rows(self) -> int:
        return self.rewards.shape[0]


class FragmentsToBatch(ConnectorV2):
    """Learner connector: fragments become ONE batch of rows, numpy still, nothing padded and nothing split."""

    def __call__(self, *, rl_module: Any, episodes: list[Fragment], **kwargs: Any) -> Any:
        return {DEFAULT_MODULE_ID: collate(episodes)}


def collate(fragments: list[Fragment]) -> dict[str, Any]:
    """The columns of several fragments, row after row; a single fragment is not copied.

    Returns:
        A dict under RLlib's column names whose arrays start with the row dimension.
    """
    columns = [
        {
            Columns.OBS: f.obs,
            Columns.ACTIONS: f.actions,
            Columns.REWARDS: f.rewards,
            Columns.ACTION_LOGP: f.log_probs,
            Columns.TERMINATEDS: f.terminateds,
            IGNORED: f.ignored,
            RESETS: f.resets,
            Columns.STATE_IN: f.state,
            WEIGHTS_SEQ_NO: np.full(f.rows, f.weights_seq_no, np.float32),
        }
        for f in fragments
    ]
    if len(columns) == 1:
        return columns[0]
    return tree.map_structure(lambda *parts: np.concatenate(parts), *columns)


def rows_of(columns: dict[str, Any], index: np.ndarray | slice, device: torch.device) -> Any:
    """The rows `index` of a collated batch as tensors on `device`."""
    return tree.map_structure(
        lambda x: torch.as_tensor(np.ascontiguousarray(x[index])).to(device, non_blocking=True),
        columns,
    )
