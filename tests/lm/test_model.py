"""The language model around a core: prices, adaptive layers, sampling step by step."""

import math

import pytest
import torch

from ct_rl.errors import UserError
from ct_rl.lm import sampling
from ct_rl.lm.build import build_core, build_model, core_names
from ct_rl.lm.config import LMConfig, ModelConfig
from ct_rl.lm.embedding import AdaptiveEmbedding, AdaptiveHead
from ct_rl.lm.presets import PRESETS
from ct_rl.reader import plain, read
from tests.lm.conftest import SIZES


def model(**over):
    options = {**SIZES, "compressed": 8, "rate": 2} | over
    built = build_model(ModelConfig(options=options), 20, seed=1).eval()
    # Blocks start as the identity: give them something to say.
    with torch.no_grad():
        for p in built.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return built


def test_a_fresh_model_pays_about_what_guessing_pays():
    built = build_model(ModelConfig(options=SIZES | {"compressed": 8, "rate": 2}), 256)
    x = torch.randint(0, 256, (4, 33), generator=torch.Generator().manual_seed(0))
    read = built(x[:, :-1], x[:, 1:], built.initial_state(4))
    assert abs(read.nll.mean().item() - math.log(256)) < 0.6


@pytest.mark.parametrize("cutoffs", [(), (5, 12)])
def test_one_token_at_a_time_gives_the_prices_of_one_pass(cutoffs):
    config = ModelConfig(options={**SIZES, "compressed": 8, "rate": 2}, cutoffs=cutoffs)
    built = build_model(config, 20).eval()
    x = torch.randint(0, 20, (2, 41), generator=torch.Generator().manual_seed(0))
    read = built(x[:, :-1], x[:, 1:], built.initial_state(2))
    state, nll = built.initial_state(2), []
    for t in range(40):
        log_probs = built.step(x[:, t], state)
        assert torch.allclose(log_probs.exp().sum(-1), torch.ones(2), atol=1e-5)
        nll.append(-log_probs.gather(1, x[:, t + 1, None])[:, 0])
    assert torch.allclose(torch.stack(nll, 1), read.nll, atol=1e-4)


def test_longer_compressed_memory_takes_the_same_weights_and_changes_only_what_it_reaches():
    short, long = model(), model(compressed=32)
    long.load_state_dict(short.state_dict())
    x = torch.randint(0, 20, (1, 101), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        a, b = (m(x[:, :-1], x[:, 1:], m.initial_state(1)).nll for m in (short, long))
    reach = 8 + 2 * 8  # memory and all slots that the short one has, at the least
    assert torch.allclose(a[:, :reach], b[:, :reach], atol=1e-5)
    assert not torch.allclose(a[:, reach + 16 :], b[:, reach + 16 :], atol=1e-5)


def test_adaptive_embedding_looks_each_band_up_in_its_own_table():
    embed = AdaptiveEmbedding(10, 8, [3, 6])
    tokens = torch.tensor([[0, 9, 4], [5, 2, 6]])
    out = embed(tokens)
    assert out.shape == (2, 3, 8)
    for row in range(2):
        for at in range(3):
            token = int(tokens[row, at])
            band = sum(token >= bound for bound in (3, 6))
            vector = embed.tables[band].weight[token - embed.bounds[band]]
            assert torch.allclose(out[row, at], embed.projections[band](vector))
    assert [table.embedding_dim for table in embed.tables] == [8, 2, 1]


def test_adaptive_softmax_prices_what_it_predicts():
    head = AdaptiveHead(16, 10, [3, 6])
    hidden = torch.randn(7, 16)
    targets = torch.randint(0, 10, (7,))
    log_probs = head.log_probs(hidden)
    assert torch.allclose(log_probs.exp().sum(-1), torch.ones(7), atol=1e-5)
    assert torch.allclose(
        -log_probs.gather(1, targets[:, None])[:, 0], head.nll(hidden, targets), atol=1e-5
    )


def test_the_nucleus_is_the_fewest_likeliest_tokens_that_reach_top_p():
    log_probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().expand(2_000, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = sampling.choose(log_probs, 1.0, 0.7, generator)
    assert set(drawn.tolist()) == {1, 3}
    assert abs((drawn == 1).float().mean().item() - 2 / 3) < 0.06
    assert set(sampling.choose(log_probs, 1.0, 1.0, generator).tolist()) == {0, 1, 2, 3}
    assert set(sampling.choose(log_probs, 1.0, 0.5, generator).tolist()) == {1}
    assert set(sampling.choose(log_probs, 0, 1.0, generator).tolist()) == {1}
    bold = sampling.choose(log_probs, 0.25, 1.0, generator)
    assert (bold == 1).float().mean() > 0.85  # 0.5^4 of the sum of fourth powers is 0.93


def test_a_sample_depends_on_the_whole_prompt_and_on_the_seed_alone():
    built = model()
    prompt = torch.randint(0, 20, (30,), generator=torch.Generator().manual_seed(3))
    draws = [list(sampling.sample(built, prompt, 30, seed=seed)) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    other = prompt.clone()
    other[0] = (other[0] + 1) % 20
    likeliest = [sampling.read(built, p[None], built.initial_state(1))[0] for p in (prompt, other)]
    assert not torch.allclose(*likeliest, atol=1e-6)


def test_reading_a_prompt_in_pieces_is_reading_it_whole():
    built = model()
    prompt = torch.randint(0, 20, (1, 50), generator=torch.Generator().manual_seed(3))
    whole, _ = sampling.read(built, prompt, built.initial_state(1))
    pieces, _ = sampling.read(built, prompt, built.initial_state(1), length=7)
    assert torch.allclose(whole, pieces, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 5])
def test_wavenet_obeys_the_memory_contract(cut):
    core = build_core("wavenet", d_model=6, n_layers=3, stacks=2)
    x = torch.randn(2, 25, 6)
    resets = torch.zeros(2, 25, dtype=torch.bool)
    resets[0, 9] = resets[1, 20] = True
    whole = core(x, core.initial_state(2), resets)
    state, parts = core.initial_state(2), []
    for start in range(0, 25, cut):
        out = core(x[:, start : start + cut], state, resets[:, start : start + cut])
        state = out.state
        parts.append(out.y)
    assert torch.allclose(torch.cat(parts, 1), whole.y, atol=1e-5)
    assert all(torch.allclose(state[name], whole.state[name], atol=1e-5) for name in state)
    fresh = core(x[:1, 9:], core.initial_state(1))
    assert torch.allclose(whole.y[:1, 9:], fresh.y, atol=1e-5)
    assert core.context_length == 2 * (1 + 2 + 4) + 1


def test_wavenet_sees_as_far_back_as_it_says():
    core = build_core("wavenet", d_model=6, n_layers=3)
    reach = core.context_length
    x = torch.randn(1, reach + 5, 6)
    x.requires_grad_()
    core(x, core.initial_state(1)).y[0, -1].sum().backward()
    seen = x.grad.abs().sum((0, 2)) > 0
    assert int(seen.sum()) <= reach and not seen[:5].any() and seen[5]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_built_and_evaluated_with_its_longer_memory(name):
    setup = PRESETS[name]
    assert read(LMConfig, plain(setup)) == setup  # within the bounds of the flags
    with torch.device("meta"):
        trained = build_model(setup.model, 256)
        longer = build_model(setup.model, 256, over=setup.eval_memory)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (trained, longer)]
    assert shapes[0] == shapes[1]
    assert setup.length % setup.model.options["window"] == 0


def test_unknown_memories_and_options_are_named():
    assert {"compressive", "lstm", "wavenet"} <= set(core_names())
    for config, words in (
        (ModelConfig(memory="compresive"), "unknown memory 'compresive'"),
        (ModelConfig(options={"copressed": 3}), "copressed"),
        (ModelConfig(memory="wavenet", options={"rate": 3}), "d_model, n_layers, stacks"),
        (ModelConfig(options=SIZES, cutoffs=(2, 3, 9)), "need a memory of width 64"),
        (ModelConfig(cutoffs=(9, 3)), "must be above 0 and ascend"),
    ):
        with pytest.raises(UserError, match=words):
            build_model(config, 20)
