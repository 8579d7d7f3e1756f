"""A learner's whole state as plain tensors and numbers, so that it can be stored without pickle."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from agents.rllib.learner import MemoryLearner
from agents.rllib.learner_thread import GuardedLearner

WEIGHTS, TARGET, OPTIMIZER = "weights/", "target/", "optimizer/"


def settle(learner: MemoryLearner) -> None:
    """Waits for a learner's thread, which must not move what is being read or replaced."""
    if isinstance(learner, GuardedLearner):
        learner.settle()


def learner_state(learner: MemoryLearner) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, optimiser state and counters of `learner`.

    Returns:
        Tensors on the CPU, named "weights/PARAMETER", "target/PARAMETER" (APPO's target policy) and
        "optimizer/NAME/PARAMETER/FIELD", and a JSON-able dict.
    """
    settle(learner)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    tensors = {WEIGHTS + key: value for key, value in module.net.state_dict().items()}
    if module.target_net is not None:
        tensors |= {TARGET + key: value for key, value in module.target_net.state_dict().items()}
    for name, optimizer, parameters in _optimizers(learner):
        for parameter, fields in optimizer.state.items():
            for field, value in fields.items():
                key = f"{OPTIMIZER}{name}/{parameters[parameter]}/{field}"
                tensors[key] = torch.as_tensor(value)
    # Clones: safetensors refuses shared memory, and training goes on while a file is written.
    plain = {key: value.detach().cpu().clone() for key, value in tensors.items()}
    meta: dict[str, Any] = {
        "updates": int(learner._weights_seq_no),
        "learning_rates": {
            name: float(optimizer.param_groups[0]["lr"])
            for name, optimizer, _ in _optimizers(learner)
        },
    }
    if module.target_net is not None:
        meta["target_updated_at_update"] = learner.target_updated_at
    if getattr(learner.config, "use_kl_loss", False):
        meta["kl_coeff"] = float(learner.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID])
    return plain, meta


def load_learner_state(
    learner: MemoryLearner, tensors: dict[str, torch.Tensor], meta: dict[str, Any]
) -> None:
    """Puts a learner where `learner_state` found it.

    Raises:
        ValueError: when the tensors belong to another network.
    """
    settle(learner)
    module = learner.module[DEFAULT_MODULE_ID].unwrapped()
    net = module.net
    weights = {
        key.removeprefix(WEIGHTS): value
        for key, value in tensors.items()
        if key.startswith(WEIGHTS)
    }
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    for key in sorted(expected.keys() | weights.keys()):
        found = tuple(weights[key].shape) if key in weights else "nothing"
        wanted = expected.get(key, "nothing")
        if found != wanted:
            raise ValueError(
                f"the checkpoint is of another network: {key} is {found}, expected {wanted}; "
                "resume with the settings that the run was started with"
            )
    net.load_state_dict(weights)
    if module.target_net is not None:
        # A run that another algorithm began has no target yet: it starts at the weights themselves.
        module.target_net.load_state_dict(
            {key: tensors.get(TARGET + key, value) for key, value in weights.items()}
        )
    if "kl_coeff" in meta:
        learner.curr_kl_coeffs_per_module[DEFAULT_MODULE_ID].data.fill_(meta["kl_coeff"])
    for name, optimizer, parameters in _optimizers(learner):
        for parameter, parameter_name in parameters.items():
            start = f"{OPTIMIZER}{name}/{parameter_name}/"
            fields = {
                key.removeprefix(start): value.clone()
                for key, value in tensors.items()
                if key.startswith(start)
            }
            if fields:
                optimizer.state[parameter] = {
                    field: value if field == "step" else value.to(parameter.device)
                    for field, value in fields.items()
                }
        # RLlib sets the schedule's value after an update, for the next.
        rate = meta.get("learning_rates", {}).get(name)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
    learner.keep_fixed_rate()
    if module.target_net is not None:
        # Older checkpoints counted steps.
        learner.target_updated_at = int(meta.get("target_updated_at_update", meta["updates"]))
    learner._weights_seq_no = int(meta["updates"])


def _optimizers(learner: MemoryLearner) -> Any:
    net = learner.module[DEFAULT_MODULE_ID].unwrapped().net
    names = {parameter: name for name, parameter in net.named_parameters()}
    for full_name, optimizer in learner.get_optimizers_for_module(DEFAULT_MODULE_ID):
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        yield (
            full_name.removeprefix(f"{DEFAULT_MODULE_ID}_"),
            optimizer,
            {p: names[p] for p in owned},
        )
