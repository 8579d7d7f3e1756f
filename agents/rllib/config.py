"""What the configs of the fast path share: memory, network, and the refusal of what would train wrong."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any, ClassVar

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.connectors.learner import LearnerConnectorPipeline
from ray.rllib.connectors.module_to_env import ModuleToEnvPipeline, NormalizeAndClipActions
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from agents.rllib.bounds import check_batch, check_bounds
from agents.rllib.carried import Carried, carry, enter
from agents.rllib.connector import ActionsForEnv, FragmentsToBatch
from agents.rllib.learner import MemoryLearner
from agents.rllib.module import (
    MemoryRLModule,
    check_network_names,
    model_settings,
    network_arguments,
)
from agents.rllib.registration import (
    environment_settings,
    look_at_resets,
    register_class,
    register_environment,
)
from agents.rllib.runner import MemoryEnvRunner
from agents.rllib.settings import check_settings


class MemoryAlgorithmConfig(AlgorithmConfig):
    """Mixin before one of RLlib's configs: `.memory(name, ...)` and `.network(...)` beside RLlib's own.

    A fragment of exactly T steps of N environments travels with ONE memory snapshot; rows run on across
    episode ends and nothing is padded.
    """

    # Whether what learns begins with the weights that acted: runners then keep what these made of every observation
    # (`agents.fragment.VALUES` and `PICKED`).
    learns_with_acting_weights: ClassVar[bool] = False
    # Whether every runner gives a fragment before any is learned from.
    samples_in_rounds: ClassVar[bool] = False
    # What a script registered of that which the settings name: it travels with the config.
    carried: tuple[Carried, ...] = ()

    def memory_defaults(self) -> None:
        """Settings that every algorithm of the fast path starts from; called by each config's constructor."""
        self.network_settings: dict[str, Any] = {"memory": "compressive", "memory_options": {}}
        self.loss_coeffs: dict[str, float] = {}
        self.imported_modules: tuple[str, ...] = ()
        self.adam_epsilon = 1e-5
        self.mixed_precision = False
        # Who chose gym_env_vectorize_mode: "default", "environment" or "user".
        self.vectorize_mode_from = "default"
        self.opt_type = "adam"
        self.decay, self.momentum, self.epsilon = 0.99, 0.0, 1e-5  # of rmsprop
        self.shuffle_batch_per_epoch = True
        self.rollout_fragment_length = 60
        self.env_runner_cls = MemoryEnvRunner
        self.add_default_connectors_to_learner_pipeline = False
        self.num_env_runners = 1
        # The learner is a thread of the driver: one process less, and no batch is ever dropped.
        self.num_learners = 0
        self.lr = 5e-4
        self.entropy_coeff = 0.005
        self.vf_loss_coeff = 0.5
        self.grad_clip = 1.0
        self.min_time_s_per_iteration = 2
        self.restart_failed_env_runners = True

    def environment(self, env: Any = NotProvided, **kwargs: Any) -> Any:
        """RLlib's `environment`; a name that Tune does not know yet is looked up in `envs`, and a class is adapted."""
        env = self._registered(env)
        super().environment(env, **kwargs)
        self._keep_settings_apart()
        if env is not NotProvided:
            self._choose_vectorize_mode()
        return self

    def env_runners(self, **kwargs: Any) -> Any:
        """RLlib's `env_runners`; a `gym_env_vectorize_mode` that is given stays, whatever the environment."""
        if kwargs.get("gym_env_vectorize_mode", NotProvided) is not NotProvided:
            self.vectorize_mode_from = "user"
        return super().env_runners(**kwargs)

    def update_from_dict(self, config_dict: dict[str, Any]) -> Any:
        """RLlib's `update_from_dict`; what `env_runners` keeps is kept here, too."""
        if "gym_env_vectorize_mode" in config_dict and "vectorize_mode_from" not in config_dict:
            self.vectorize_mode_from = "user"
        return super().update_from_dict(config_dict)

    def _registered(self, env: Any) -> Any:
        """The name of a class or function that makes environments of one agent; anything else as it is."""
        several = isinstance(env, type) and issubclass(env, MultiAgentEnv)
        return register_class(env) if callable(env) and not several else env

    def _is_ours(self, env: Any) -> bool:
        """Whether `envs` makes the environments of that name, N at once."""
        return isinstance(env, str) and register_environment(env, self.imported_modules)

    def _keep_settings_apart(self) -> None:
        self.env_config = environment_settings(self.env_config, self._is_ours(self.env))

    def _choose_vectorize_mode(self) -> None:
        """N environments at once where `envs` makes them, unless another mode was asked for."""
        ours, modes = self._is_ours(self.env), gym.VectorizeMode
        usual = self.gym_env_vectorize_mode in (modes.SYNC, modes.SYNC.value)
        if ours and usual and self.vectorize_mode_from == "default":
            chosen, by = modes.VECTOR_ENTRY_POINT, "environment"
        elif not ours and self.vectorize_mode_from == "environment":
            chosen, by = modes.SYNC, "default"
        else:
            return
        self.gym_env_vectorize_mode, self.vectorize_mode_from = chosen.value, by

    def _adapt_environment(self) -> None:
        """What `environment` does, for one that came by `build_algo(env=...)`, a dict or an evaluation's settings."""
        env = self._registered(self.env)
        if env != self.env:
            self.env = env
        self._keep_settings_apart()
        self._choose_vectorize_mode()

    def imports(self, *modules: str) -> Any:
        """Modules that every process imports first: those that register environments, memories, losses of one's own."""
        self.imported_modules = (*self.imported_modules, *modules)
        for module in modules:
            import_module(module)
        if isinstance(self.env, str):
            register_environment(self.env, self.imported_modules)
        return self

    def memory(self, name: str, **options: Any) -> Any:
        """Chooses the memory core and its settings, as `ct_rl.memory.build_memory` takes them."""
        self.network_settings = {
            **self.network_settings,
            "memory": name,
            "memory_options": options,
        }
        self._take_along()
        return self

    def network(
        self,
        *,
        encoder: str | None = None,
        width: int | None = None,
        crop: tuple[int, int] | None = None,
        around: bool | None = None,
        head: int | None = None,
        bilinear: int | None = None,
        value_bins: int | None = None,
        reward_clip: str | None = None,
    ) -> Any:
        """Sets what surrounds the memory; the arguments are `ActorCritic`'s."""
        given = {
            "encoder": encoder,
            "width": width,
            "crop": crop,
            "around": around,
            "head": head,
            "bilinear": bilinear,
            "value_bins": value_bins,
            "reward_clip": reward_clip,
        }
        self.network_settings = {
            **self.network_settings,
            **{key: value for key, value in given.items() if value is not None},
        }
        self._take_along()
        return self

    def auxiliary(self, name: str, **options: Any) -> Any:
        """Adds an auxiliary loss and its settings; `training(loss_coeffs={name: ...})` weighs it."""
        before = self.network_settings.get("auxiliary", {})
        self.network_settings = {
            **self.network_settings,
            "auxiliary": {**before, name: options},
        }
        self._take_along()
        return self

    def _take_along(self) -> None:
        """Notes the classes behind the settings' names; another process, as a trial of Tune's, learns them here."""
        enter(self.carried)
        self.carried = carry(self.network_settings)

    def training(
        self,
        *,
        loss_coeffs: dict[str, float] | None = None,
        adam_epsilon: float | None = None,
        mixed_precision: bool | None = None,
        opt_type: str | None = None,
        decay: float | None = None,
        momentum: float | None = None,
        epsilon: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """RLlib's `training`, and what it lacks for some algorithms.

        Args:
            loss_coeffs: weights of the memory's and the auxiliary losses by name, such as "compression" or
                "contrast"; 1 for those that are not named.
            adam_epsilon: the epsilon of Adam.
            mixed_precision: bfloat16 autocast in the learner, and for the encoder in acting where the runner's
                processor has bfloat16.
            opt_type, decay, momentum, epsilon: "adam", or "rmsprop" with these settings.
        """
        super().training(**kwargs)
        given = {
            "loss_coeffs": loss_coeffs,
            "adam_epsilon": adam_epsilon,
            "mixed_precision": mixed_precision,
            "opt_type": opt_type,
            "decay": decay,
            "momentum": momentum,
            "epsilon": epsilon,
        }
        for key, value in given.items():
            if value is not None:
                setattr(self, key, value)
        return self

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return super()._model_config_auto_includes | self._module_settings

    @property
    def _module_settings(self) -> dict[str, Any]:
        settings = {**self.network_settings, "loss_coeffs": self.loss_coeffs}
        more = {"imports": self.imported_modules, "carried": self.carried}
        return settings | {key: value for key, value in more.items() if value}

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MemoryRLModule, model_config=self._module_settings)

    def build_learner_connector(
        self, input_observation_space: Any, input_action_space: Any, device: Any = None
    ) -> LearnerConnectorPipeline:
        return LearnerConnectorPipeline(
            input_observation_space=input_observation_space,
            input_action_space=input_action_space,
            connectors=[FragmentsToBatch()],
        )

    def build_module_to_env_connector(
        self, env: Any = None, spaces: Any = None
    ) -> ModuleToEnvPipeline:
        """RLlib's, for the whole episodes that its evaluation plays; with the actions of the fast path."""
        pipeline = super().build_module_to_env_connector(env, spaces)
        pipeline.insert_before(NormalizeAndClipActions, ActionsForEnv())
        pipeline.remove(NormalizeAndClipActions)
        return pipeline

    def validate(self) -> None:
        """RLlib's checks, and those of the fast path.

        Raises:
            ValueError: for a setting that the fast path would get wrong, in one line that says what to set.
        """
        self._adapt_environment()
        check_bounds(self)
        check_batch(self)
        super().validate()
        self._take_along()
        name = type(self).__name__
        if not (self.enable_rl_module_and_learner and self.enable_env_runner_and_connector_v2):
            raise ValueError(
                f"{name} is of RLlib's new API stack: leave api_stack() as it is, or use a stock "
                "config with custom_model='compressive_transformer' on the old stack"
            )
        if self.is_multi_agent:
            stock = name.removeprefix("Memory")
            raise ValueError(
                f"{name} trains one policy: use RLlib's {stock} with one "
                "RLModuleSpec(module_class=MemoryRLModule) for each of several"
            )
        if not issubclass(self.env_runner_cls, MemoryEnvRunner):
            raise ValueError(
                f"{name} samples fragments, which {self.env_runner_cls.__name__} does not: "
                "leave env_runner_cls as it is, or subclass agents.rllib.runner.MemoryEnvRunner"
            )
        if self.batch_mode != "truncate_episodes" and not self.in_evaluation:
            raise ValueError(
                f"batch_mode={self.batch_mode!r} does not go with fragments of fixed length: "
                "set env_runners(batch_mode='truncate_episodes')"
            )
        check_settings(self)
        if not issubclass(self.learner_class, MemoryLearner):
            raise ValueError(
                f"{name} learns from fragments, which {self.learner_class.__name__} does not: leave "
                f"learner_class as it is, or subclass {self.get_default_learner_class().__name__}"
            )
        spec = self.rl_module_spec
        module_class = spec.module_class
        if not (isinstance(module_class, type) and issubclass(module_class, MemoryRLModule)):
            raise ValueError(
                f"{name} trains MemoryRLModule, not {module_class!r}: leave the module_class out of "
                "rl_module(rl_module_spec=...), or subclass agents.MemoryRLModule"
            )
        if module_class is MemoryRLModule:  # another may register what it needs
            settings = self._module_settings | model_settings(spec)
            check_network_names(network_arguments(settings), settings.get("imports", ()))
        rate = self.network_settings.get("memory_options", {}).get("dropout", 0.0)
        if rate > 0 and not self.in_evaluation:
            warnings.warn(
                f"dropout={rate} is on in learning and off in acting: with no update between, the ratio of the two "
                "policies is not 1; set it to 0 where that should not be",
                stacklevel=2,
            )
        look_at_resets(self)
        steps = self.get_rollout_fragment_length()
        if self.minibatch_size is not None and self.minibatch_size % steps:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} is no whole number of rows of {steps} steps: give a multiple "
                "of rollout_fragment_length"
            )
