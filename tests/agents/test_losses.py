"""The losses of APPO and PPO: the clipped surrogate, the target policy, KL, advantages of a batch."""

import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from gymnasium import spaces
from ray.rllib.core.rl_module.apis import TARGET_NETWORK_ACTION_DIST_INPUTS

from agents import AuxiliaryLoss, MemoryRLModule, register_auxiliary
from agents.auxiliary import registry as losses
from agents.distributions import distribution, parameter_count
from agents.errors import LearnerFailed
from agents.fragment import Fragment
from agents.gae import gae
from agents.losses import check_losses
from agents.rewards import clip_reward
from agents.rllib.appo import clipped_surrogate
from agents.rllib.learner import _columns
from agents.rllib.ppo import (
    ADVANTAGES,
    POLICY,
    TARGETS,
    MemoryPPOConfig,
    MemoryPPOLearner,
    normalised,
)
from ct_rl.memory import MemoryOutput, memory_class, memory_options, register_memory, registry
from tests.agents.conftest import CONFIGS
from tests.agents.test_fragments import EXACT, SMALL, make_runner


def test_the_surrogate_stops_growing_where_the_ratio_leaves_its_band():
    ratio = torch.tensor([0.5, 1.0, 2.0])
    gain = clipped_surrogate(ratio, torch.ones(3), 0.2)
    loss = clipped_surrogate(ratio, -torch.ones(3), 0.2)
    torch.testing.assert_close(gain, torch.tensor([0.5, 1.0, 1.2]))
    torch.testing.assert_close(loss, torch.tensor([-0.8, -1.0, -2.0]))


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(4), spaces.MultiDiscrete([2, 3]), spaces.Box(-1, 1, (2,))],
    ids=["discrete", "multi-discrete", "continuous"],
)
def test_kl_is_the_mean_log_ratio_of_samples(space):
    torch.manual_seed(0)
    p, q = torch.randn(2, parameter_count(space)) * 0.5
    one, other = (distribution(space, x.expand(40_000, -1)) for x in (p, q))
    action = one.sample()
    sampled = (one.log_prob(action) - other.log_prob(action)).mean()
    torch.testing.assert_close(one.kl(other).mean(), sampled, atol=0.02, rtol=0.05)
    assert one.kl(one).abs().max() < 1e-6


def test_the_target_policy_reads_from_the_same_memory():
    """A fresh target gives the acting policy over a whole fragment, and keeps still when the net moves."""
    runner = make_runner("compressive")
    runner.sample()
    module = runner.module
    module.make_target_networks()
    fragment = Fragment.join(runner.sample()).to_device("cpu")

    def target():
        return module.forward_target(_columns(fragment))[TARGET_NETWORK_ACTION_DIST_INPUTS]

    before = target()
    log_probs = module.net.distribution(before[:, :-1]).log_prob(fragment.actions)
    assert (log_probs - fragment.log_probs)[~fragment.ignored].abs().max() < EXACT
    with torch.no_grad():
        for parameter in module.net.parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(target(), before)
    assert not any(p.requires_grad for p in module.target_net.parameters())
    assert "target_net" in module.get_non_inference_attributes()


@pytest.mark.parametrize("memory", ["compressive", "lstm"])
def test_ppos_batch_holds_centred_advantages_of_the_weights_before_learning(memory):
    runner = make_runner(memory, rows=5, steps=9, config_class=MemoryPPOConfig)
    fragments = [f for _ in range(3) for f in runner.sample()]
    learner = MemoryPPOLearner.__new__(MemoryPPOLearner)
    learner._device = torch.device("cpu")

    class Settings:
        gamma, lambda_, least_advantage_std, minibatch_size = 0.9, 0.8, 0.0, 18
        use_kl_loss = True

    learner.config = Settings
    learner._module = {"default_policy": runner.module}
    prepared = learner.prepare(Fragment.join(fragments))
    whole = Fragment.join(fragments).to_device("cpu")
    net = runner.module.net
    with torch.no_grad():
        # What the runner kept of acting is what one pass over all rows gives.
        out = net(whole.obs, whole.state, whole.resets)
    advantages, targets = gae(
        rewards=clip_reward(whole.rewards, net.reward_clip),
        values=out.value,
        terminateds=whole.terminateds,
        ignored=whole.ignored,
        gamma=0.9,
        lambda_=0.8,
    )
    taken = ~whole.ignored
    plain = advantages[taken]
    extra = prepared.extra
    expected = (plain - plain.mean()) / plain.std(correction=0)
    torch.testing.assert_close(extra[ADVANTAGES][taken], expected, atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(extra[TARGETS][taken], targets[taken], atol=EXACT, rtol=EXACT)
    torch.testing.assert_close(extra[POLICY], out.policy[:, :-1], atol=EXACT, rtol=EXACT)


def by_learners(call, parts, monkeypatch):
    """What learners side by side, each in a thread, give of their parts."""
    given, total = [], []
    everyone = threading.Barrier(len(parts), lambda: (total.append(sum(given)), given.clear()))

    def all_reduce(x):
        given.append(x.clone())
        everyone.wait(60)
        x.copy_(total[-1])

    with monkeypatch.context() as patch, ThreadPoolExecutor(len(parts)) as pool:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        patch.setattr(torch.distributed, "all_reduce", all_reduce)
        return [*pool.map(call, parts)]


def test_two_learners_normalise_advantages_as_one_does(monkeypatch):
    torch.manual_seed(0)
    advantages, taken = torch.randn(6, 5).exp(), torch.rand(6, 5) > 0.3
    found = by_learners(
        lambda part: normalised(advantages[part], taken[part], 0.3),
        [slice(0, 2), slice(2, 6)],
        monkeypatch,
    )
    torch.testing.assert_close(torch.cat(found), normalised(advantages, taken, 0.3))


@pytest.mark.parametrize("algorithm", CONFIGS)
def test_two_learners_learn_what_one_does(monkeypatch, algorithm):
    """torch takes the plain mean of their gradients, and one may ignore or compress more steps than the other."""
    runner = make_runner("compressive", rows=4, steps=22, config_class=CONFIGS[algorithm])
    fragment = Fragment.join([*runner.sample(), *runner.sample()])
    config = CONFIGS[algorithm]().environment("counting")
    config.memory("compressive", d_model=16, **SMALL["compressive"]).network(around=False, width=16)
    config.env_runners(num_envs_per_env_runner=4, rollout_fragment_length=22)
    learner = config.training(train_batch_size_per_learner=88).build_learner(
        spaces={"default_policy": runner.get_spaces()["__env_single__"]}
    )
    module = learner.module["default_policy"].unwrapped().double()
    module.net.load_state_dict(runner.module.net.state_dict())
    parameters, reports = list(module.net.parameters()), {}
    learner.metrics = Mock()
    learner.metrics.log_dict = lambda numbers, **_: reports.update({threading.get_ident(): numbers})

    def learned(rows):
        """Reported numbers and gradients of some rows."""
        columns = _columns(learner.prepare(fragment.rows(rows).to_device("cpu")))
        loss = learner.compute_loss_for_module(
            module_id="default_policy",
            config=learner.config,
            batch=columns,
            fwd_out=module.forward_train(columns),
        )
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.tensor([*reports[threading.get_ident()].values()]), *gradients]

    try:
        parts = by_learners(learned, [[0, 1, 4, 5], [2, 3, 6, 7]], monkeypatch)
        one = learned(slice(None))
    finally:
        learner.shutdown()
    for whole, *halves in zip(one, *parts, strict=True):
        if whole is not None:  # the numbers of terms are float32
            torch.testing.assert_close(sum(halves) / 2, whole, atol=1e-6, rtol=1e-5)


def test_advantages_are_never_divided_by_next_to_nothing():
    advantages = torch.tensor([[0.0, 0.001, 5.0]])
    taken = torch.tensor([[True, True, False]])
    assert normalised(advantages, taken, 0.3).abs().max() < 5.0 / 0.3
    torch.testing.assert_close(
        normalised(advantages, taken, 0.3)[taken], torch.tensor([-0.0005, 0.0005]) / 0.3
    )


@pytest.fixture
def learned_with(monkeypatch):
    """A function that passes one fragment through a network which has a loss of somebody's own, `own`."""
    monkeypatch.setattr(registry, "_CORES", {})
    monkeypatch.setattr(losses, "_LOSSES", {})
    runner = make_runner("lstm")
    fragment = Fragment.join(runner.sample()).to_device("cpu")
    fragment.state = {key: x.float() for key, x in fragment.state.items()}  # the runner's is exact
    observation, action = runner.get_spaces()["__env_single__"]

    class Core(memory_class("lstm")):
        def run(self, x, state, resets, attention):
            out = super().run(x, state, resets, attention)
            return MemoryOutput(out.y, out.state, {"own": self.make(out.y)})

    class Loss(AuxiliaryLoss):
        def forward(self, experience):
            return self.make(experience.outputs)

    register_memory("of_a_core", Core, memory_options("lstm"))
    register_auxiliary("own", Loss)

    def learn(kind, make, **weights):
        Core.make = Loss.make = staticmethod(make)
        settings = {"memory": "of_a_core"} if kind == "memory" else {"auxiliary": {"own": {}}}
        module = MemoryRLModule(
            observation_space=observation,
            action_space=action,
            model_config={
                "memory": "lstm",
                "memory_options": {"d_model": 16, **SMALL["lstm"]},
                "loss_coeffs": weights,
                **settings,
            },
        )
        module.carries_losses = False
        return module, lambda: module.forward_train(_columns(fragment))["losses"]["own"]

    return learn


MADE = {
    "a vector": (lambda y: y.square().mean((0, 1)), r"is torch.float32 \[6\]"),
    "one in a list": (lambda y: y.square().mean()[None], r"is torch.float32 \[1\]"),
    "a number": (lambda y: 0.5, "is float"),
    "nothing": (lambda y: None, "is NoneType"),
    "a dict": (lambda y: {"a": y.mean()}, "is dict"),
    "a whole number": (lambda y: (y > 0).sum(), r"is torch.int64 \[\]"),
}


@pytest.mark.parametrize("made", MADE)
def test_a_loss_that_is_no_scalar_is_named(learned_with, made):
    make, said = MADE[made]
    _, learn = learned_with("auxiliary", make)
    expected = f"^auxiliary loss 'own' {said}: expected one floating-point scalar"
    with pytest.raises(LearnerFailed, match=expected):
        learn()


@pytest.mark.parametrize("kind", ["auxiliary", "memory"])
def test_a_loss_without_a_gradient_is_refused_unless_it_is_only_reported(learned_with, kind):
    def make(y):
        return y.detach().square().mean()

    module, learn = learned_with(kind, make)
    with pytest.raises(
        LearnerFailed, match=r"loss 'own' has no gradient.*loss_coeffs=\{'own': 0\}"
    ):
        learn()
    with torch.no_grad():
        assert learn() > 0  # nothing learns here
    module.loss_coeffs["own"] = 0.0
    if kind == "memory":
        assert learn() > 0


def test_a_loss_that_is_0_may_have_nothing_to_learn_from(learned_with):
    _, learn = learned_with("auxiliary", lambda y: torch.zeros(()))
    assert learn() == 0


def test_a_compression_without_weights_is_reported(monkeypatch):
    """Its loss has nothing to train, and no user can change that."""
    core = memory_class("compressive")(
        d_model=8, n_heads=2, n_layers=1, memory=8, window=8, compressed=4, rate=2,
        compression="mean",
    )  # fmt: skip
    out = core(torch.randn(1, 16, 8), core.initial_state(1))
    assert out.losses["compression"] > 0 and not out.losses["compression"].requires_grad
    check_losses(out.losses, core, torch.nn.ModuleDict(), {})
