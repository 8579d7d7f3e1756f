"""RLlib's aggregators turn fragments into batches through this learner connector; learners read them as they come."""

from __future__ import annotations

from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID

from agents.fragment import Fragment


class FragmentsToBatch(ConnectorV2):
    """Fragments become ONE batch of rows, numpy still, nothing padded and nothing split."""

    def __call__(self, *, rl_module: Any, episodes: list[Fragment], **kwargs: Any) -> Any:
        return {DEFAULT_MODULE_ID: Fragment.join(episodes).columns()}
