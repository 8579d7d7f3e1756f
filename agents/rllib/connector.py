"""Where RLlib's connectors meet the fast path: its aggregators' batches, and actions in its way of evaluating."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns

from agents.distributions import for_env
from agents.fragment import Fragment


class FragmentsToBatch(ConnectorV2):
    """For aggregators: fragments become ONE batch of rows, numpy still, nothing padded and nothing split.

    Learners read fragments as they come.
    """

    def __call__(self, *, rl_module: Any, episodes: list[Fragment], **kwargs: Any) -> Any:
        return {DEFAULT_MODULE_ID: Fragment.join(episodes).columns()}


class ActionsForEnv(ConnectorV2):
    """An evaluation's actions reach the environment as training's do.

    RLlib's own piece counts every discrete action from 0, and knows nothing of whole numbers or of one-sided bounds.
    """

    def recompute_output_action_space(
        self, input_observation_space: gym.Space, input_action_space: gym.Space
    ) -> gym.Space:
        return input_action_space

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> Any:
        batch[Columns.ACTIONS_FOR_ENV] = {
            episode: [for_env(self.input_action_space, action) for action in actions]
            for episode, actions in batch[Columns.ACTIONS].items()
        }
        return batch
