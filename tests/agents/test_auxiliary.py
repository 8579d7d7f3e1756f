"""Every auxiliary loss, by being registered: no pair across a reset, gradients where they belong, none at weight 0."""

import dataclasses
import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import ActorCritic
from agents.auxiliary import (
    AuxiliaryLoss,
    Experience,
    Sizes,
    auxiliary_names,
    auxiliary_options,
    build_auxiliary,
    register_auxiliary,
)
from agents.auxiliary.pairs import draw_pairs, info_nce
from agents.auxiliary.prediction import barlow_twins
from agents.auxiliary.reconstruction import targets
from agents.auxiliary.registry import _class
from agents.fragment import Fragment
from agents.rllib.learner import _columns
from tests.agents.odd import ACTIONS, OBSERVATIONS
from tests.agents.test_fragments import SMALL, make_runner


def sizes(observation="vector", action="discrete"):
    return Sizes(6, 5, OBSERVATIONS[observation], ACTIONS[action])


def built(name, of=None):
    torch.manual_seed(0)
    return build_auxiliary(name, of or sizes(), _class(name).small)


def experience(of=None, rows=4, steps=12, seed=0):
    of = of or sizes()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    of.observation_space.seed(seed)
    of.action_space.seed(seed)
    draws = [[of.observation_space.sample() for _ in range(steps)] for _ in range(rows)]
    actions = [[of.action_space.sample() for _ in range(steps)] for _ in range(rows)]
    resets = torch.from_numpy(rng.random((rows, steps)) < 0.15)
    ignored = torch.zeros_like(resets)
    ignored[:, :-1] = resets[:, 1:]  # the step before a reset shows the end of an episode
    return Experience(
        observation=_stacked(draws),
        features=torch.randn(rows, steps, of.features, requires_grad=True),
        outputs=torch.randn(rows, steps, of.outputs, requires_grad=True),
        actions=torch.as_tensor(np.array(actions)),
        rewards=torch.randn(rows, steps),
        resets=resets,
        ignored=ignored,
    )


def _stacked(draws):
    if isinstance(draws[0][0], dict):
        return {k: _stacked([[x[k] for x in row] for row in draws]) for k in draws[0][0]}
    return torch.as_tensor(np.array(draws))


@pytest.mark.parametrize("name", auxiliary_names())
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_any_observation_and_action_gives_one_finite_scalar(name, observation, action):
    of = sizes(observation, action)
    loss = built(name, of)(experience(of))
    assert loss.shape == () and loss.isfinite() and loss.requires_grad
    loss.backward()


@pytest.mark.parametrize("name", auxiliary_names())
def test_what_is_ignored_and_other_episodes_change_nothing(name):
    """Features of ignored steps, and a whole row that is ignored, have no part in the loss and get no gradient."""
    seen = experience()
    seen.ignored[-1] = True
    torch.manual_seed(1)
    loss = built(name)(seen)
    loss.backward()
    for part in (seen.features, seen.outputs):
        if part.grad is not None:
            assert not part.grad[seen.ignored].any()
    if seen.features.grad is None and seen.outputs.grad is None:
        pytest.fail(f"{name} trains neither encoder nor memory")


@pytest.mark.parametrize("name", auxiliary_names())
def test_nothing_to_learn_from_is_zero(name):
    seen = experience()
    seen.ignored[:] = True
    loss = built(name)(seen)
    assert loss == 0 and loss.isfinite()
    loss.backward()
    for part in (seen.features, seen.outputs):
        assert part.grad is None or not part.grad.any()


@pytest.mark.parametrize("name", auxiliary_names())
def test_every_option_has_a_default_and_a_help_text(name):
    options = auxiliary_options(name)
    assert dataclasses.is_dataclass(options)
    options()
    known = {field.name for field in dataclasses.fields(options)}
    assert set(_class(name).small) <= known
    with pytest.raises(ValueError, match="has no option 'no_such_option'"):
        build_auxiliary(name, sizes(), {"no_such_option": 1})


def trained_module(**more):
    """A module that has learned from one fragment, what it gave, and its gradients."""
    runner = make_runner("compressive")
    fragment = Fragment.join(runner.sample()).to_device("cpu")
    module_config = {
        "memory": "compressive",
        "memory_options": {"d_model": 16, **SMALL["compressive"]},
        "width": 16,
        "around": False,
        **more,
    }
    spec = type(runner.module)
    torch.manual_seed(2)
    module = spec(
        observation_space=runner.module.observation_space,
        action_space=runner.module.action_space,
        inference_only=False,
        model_config=module_config,
    ).double()
    out = module.forward_train(_columns(fragment))
    out["action_dist_inputs"].square().sum().add(out["vf_preds"].sum()).backward()
    grads = {k: p.grad for k, p in module.net.named_parameters() if "auxiliary" not in k}
    return module, out, grads


def test_nothing_else_changes_when_the_weight_is_0():
    _, plain, without = trained_module()
    contrast = {"auxiliary": {"contrast": {"pairs": 16}}, "loss_coeffs": {"contrast": 0.0}}
    module, out, with_none = trained_module(**contrast)
    assert "contrast" in module.net.auxiliary and "contrast" not in out["losses"]
    torch.testing.assert_close(out["action_dist_inputs"], plain["action_dist_inputs"])
    for key, grad in without.items():
        torch.testing.assert_close(with_none[key], grad, msg=key)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_whatever_asks_for_a_gradient_gets_one(weight):
    """Or several learners, who wait for it, stop: torch's DistributedDataParallel raises an error."""
    weights = {"contrast": weight, "compression": weight}
    module, *_ = trained_module(auxiliary={"contrast": {"pairs": 16}}, loss_coeffs=weights)
    waiting = [
        name for name, p in module.net.named_parameters() if p.requires_grad and p.grad is None
    ]
    assert not waiting
    asked = {p.requires_grad for p in module.net.auxiliary.parameters()}
    assert asked == {weight > 0}


@pytest.mark.parametrize(
    "name, encoder, memory",
    [
        ("contrast", True, False),
        ("prediction", True, True),
        ("recall", True, True),
        ("reconstruction", False, True),  # the encoder learns from it through the memory
    ],
)
def test_the_gradient_reaches_what_is_meant_to_learn(name, encoder, memory):
    seen = experience()
    built(name)(seen).backward()
    assert (seen.features.grad is not None and bool(seen.features.grad.any())) == encoder
    assert (seen.outputs.grad is not None and bool(seen.outputs.grad.any())) == memory


def test_barlow_twins_is_zero_for_equal_embeddings_without_redundancy():
    torch.manual_seed(0)
    x = torch.randn(500, 3)
    there = torch.rand(500) < 0.7
    x[~there] = 1e6
    assert barlow_twins(x, x, there, 0.0) < 1e-3
    assert barlow_twins(x, x.flip(1), there, 0.0) > 1.0


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 255, np.uint8), (0, 1, np.uint8), (0, 60_000, np.uint16), (-1, 1, np.float32), (0, np.inf, np.float32)],
    ids=str,
)  # fmt: skip
def test_frames_are_rebuilt_at_unit_scale_whatever_their_bounds(low, high, dtype):
    space = gym.spaces.Box(low, high, (8, 8, 3), dtype)
    most = high if np.isfinite(high) else 1e4
    frames = torch.from_numpy(np.random.default_rng(0).uniform(low, most, (2, 8, 8, 3)))
    wanted = targets(space, frames.to(torch.float32), side=8)
    assert wanted.shape == (2, 8 * 8 * 3) and wanted.min() >= 0
    assert 0.5 < wanted.max() <= (1 if np.isfinite(high) else 10)


def test_grey_frames_are_rebuilt_as_those_with_a_channel():
    """The encoder reads them as frames, too."""
    frames = torch.randint(0, 256, (2, 48, 40), dtype=torch.uint8)
    grey, channel = (gym.spaces.Box(0, 255, shape, np.uint8) for shape in [(48, 40), (48, 40, 1)])
    wanted = targets(channel, frames[..., None], side=12)
    assert wanted.shape == (2, 12 * 10)
    torch.testing.assert_close(targets(grey, frames, side=12), wanted)


def test_a_horizon_beyond_the_rows_draws_no_fewer_pairs():
    episode = torch.zeros(8, 16, dtype=torch.long)
    found = [draw_pairs(episode, episode.bool(), far, 128)[3].sum() for far in (15, 10_000)]
    assert min(found) > 32


def test_recall_tells_a_memory_that_keeps_from_one_that_does_not():
    """Trained on outputs that are what was seen two steps ago, and on noise."""
    found = {}
    for keeps in (True, False):
        of = Sizes(6, 6, OBSERVATIONS["vector"], ACTIONS["discrete"])
        torch.manual_seed(0)
        loss = build_auxiliary("recall", of, {"horizon": 2, "pairs": 64, "width": 32})
        optimizer = torch.optim.Adam(loss.parameters(), 3e-3)
        for step in range(150):
            seen = experience(of, rows=16, steps=8, seed=step)
            seen.resets[:] = seen.ignored[:] = False
            features = seen.features.detach()
            held = torch.cat([torch.zeros(16, 1, 6), features[:, :-1]], 1)
            seen = dataclasses.replace(
                seen, features=features, outputs=held if keeps else torch.randn(16, 8, 6)
            )
            optimizer.zero_grad()
            value = loss(seen)
            value.backward()
            optimizer.step()
        found[keeps] = value.item()
    assert found[True] < 0.75 * found[False]


@given(
    resets=st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=1, max_size=4),
    horizon=st.integers(1, 12),
    count=st.integers(2, 50),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_pairs_are_of_one_row_and_episode_and_no_step_comes_first_twice(
    resets, horizon, count, seed
):
    torch.manual_seed(seed)
    resets = torch.tensor(resets)
    ignored = torch.rand(resets.shape) < 0.2
    episode = resets.long().cumsum(1)
    row, step, later, there = draw_pairs(episode, ignored, horizon, count)
    assert len(row) == min(count, resets.numel())
    for r, a, b in zip(
        row[there].tolist(), step[there].tolist(), later[there].tolist(), strict=True
    ):
        assert 1 <= b - a <= horizon
        assert not resets[r, a + 1 : b + 1].any()
        assert not ignored[r, a] and not ignored[r, b]
    firsts = list(zip(row[there].tolist(), step[there].tolist(), strict=True))
    assert len(set(firsts)) == len(firsts)


def test_contrast_is_the_cross_entropy_of_its_definition():
    logits = torch.tensor([[2.0, 1.0, 9.0], [0.0, 3.0, 1.0], [9.0, 1.0, 0.5]])
    row = torch.tensor(
        [0, 1, 0]
    )  # the first and the third are of one row: neither is the other's negative
    there = torch.tensor([True, True, True])
    log = torch.log
    one = [
        -log(torch.softmax(logits[0, :2], 0)[0]),
        -log(torch.softmax(logits[1], 0)[1]),
        -log(torch.softmax(logits[2, 1:], 0)[1]),
    ]
    other = [
        -log(torch.softmax(logits[:2, 0], 0)[0]),
        -log(torch.softmax(logits[:, 1], 0)[1]),
        -log(torch.softmax(logits[1:, 2], 0)[1]),
    ]
    torch.testing.assert_close(info_nce(logits, row, there), sum(one + other) / 6)


class Mean(AuxiliaryLoss):
    """The mean square of what the memory gives: for tests."""

    def forward(self, experience):
        taken = (~experience.ignored).to(experience.outputs.dtype)[..., None]
        return (experience.outputs.square() * taken).sum() / taken.sum().clamp(min=1)


def test_one_class_and_one_line_add_a_loss(monkeypatch):
    monkeypatch.setattr(sys.modules["agents.auxiliary.registry"], "_LOSSES", {})
    register_auxiliary("mean_square", Mean)
    assert "mean_square" in auxiliary_names()
    net = ActorCritic(
        OBSERVATIONS["vector"],
        gym.spaces.Discrete(2),
        memory="gru",
        auxiliary={"mean_square": {}},
    )
    assert isinstance(net.auxiliary["mean_square"], Mean)


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("prediction", {"loss": "xx"}, "loss='xx': expected one of"),
        ("contrast", {"temperature": 0.0}, "temperature=0.0: expected a number above 0"),
        ("contrast", {"horizon": 0}, "horizon=0: expected a whole number of at least 1"),
        ("recall", {"pairs": "many"}, "pairs='many'"),
    ],
)
def test_an_option_out_of_its_bounds_is_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        build_auxiliary(name, sizes(), options)


@pytest.mark.parametrize(
    "name", ["", 5, "none", "policy", "my-loss", "my loss", "class", "items", "recall"]
)
def test_a_name_that_could_not_be_used_is_refused(name):
    with pytest.raises(ValueError, match="auxiliary loss"):
        register_auxiliary(name, Mean)
    assert name == "recall" or name not in auxiliary_names()


def test_a_loss_with_an_option_that_must_be_given_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Options:
        margin: float

    class Wanting(Mean):
        pass

    Wanting.Options = Options
    with pytest.raises(ValueError, match="option 'margin' has no default"):
        register_auxiliary("wanting", Wanting)


def test_an_option_that_could_not_be_used_is_refused():
    for option, default, said in (("sizes", 3, "named 'sizes'"), ("margin", "x", "default 'x'")):
        fields = [(option, int, default)]
        options = dataclasses.make_dataclass("Options", fields)
        cls = type("Wrong", (Mean,), {"Options": options})
        with pytest.raises(ValueError, match=f"^auxiliary loss 'wrong'.*{said}"):
            register_auxiliary("wrong", cls)


def test_a_loss_that_does_not_call_its_base_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["agents.auxiliary.registry"], "_LOSSES", {})
    register_auxiliary("bare", type("Bare", (Mean,), {"__init__": lambda self, sizes: None}))
    with pytest.raises(ValueError, match=r"'bare': its __init__ must call super\(\).__init__"):
        build_auxiliary("bare", sizes(), {})


def test_what_is_no_loss_is_refused():
    with pytest.raises(ValueError, match="give a subclass of AuxiliaryLoss"):
        register_auxiliary("wrong", dict)
    with pytest.raises(ValueError, match="unknown auxiliary loss 'contrats': did you mean"):
        auxiliary_options("contrats")


def test_an_instruction_is_not_rebuilt():
    """It is told in every step, and as one-hot words would be nearly all that there is."""
    words = gym.spaces.MultiDiscrete([1000] * 16)
    parts = {"pose": gym.spaces.Box(-1, 1, (3,)), "instruction": words, "instruction:goal": words}
    seen = {key: torch.as_tensor(space.sample())[None] for key, space in parts.items()}
    assert targets(gym.spaces.Dict(parts), seen, 6).shape == (1, 3)
    del parts["pose"]
    assert targets(gym.spaces.Dict(parts), seen, 6).shape == (1, 32_000)
