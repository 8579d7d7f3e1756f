"""The instruction's reader, and the part it has in a whole agent."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic
from agents.encoders import InstructionEncoder, build_encoder

WORDS = gym.spaces.Box(0, 2**31 - 1, (6,), np.int64)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return InstructionEncoder(WORDS)


def test_words_and_their_order_count_and_padding_does_not(encoder):
    a = torch.tensor([[7, 8, 9, 0, 0, 0]])
    shorter = InstructionEncoder(gym.spaces.Box(0, 99, (3,), np.int64))
    shorter.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(encoder(a), shorter(a[:, :3]))
    for other in ([8, 7, 9, 0, 0, 0], [7, 8, 0, 0, 0, 0], [7, 8, 9, 9, 0, 0]):
        assert (encoder(a) - encoder(torch.tensor([other]))).abs().max() > 1e-3


def test_no_word_gives_zeros_and_rows_do_not_meet(encoder):
    words = torch.tensor([[0] * 6, [5, 0, 0, 0, 0, 0], [0] * 6, [5, 6, 0, 0, 0, 0]])
    y = encoder(words)
    assert y.shape == (4, encoder.d_out) and not y[0].any() and not y[2].any()
    for i in range(4):
        torch.testing.assert_close(y[i : i + 1], encoder(words[i : i + 1]))


def test_any_hash_fits(encoder):
    big = torch.tensor([[2**31 - 1, encoder.BUCKETS + 7, 0, 0, 0, 0]])
    assert torch.isfinite(encoder(big)).all()
    torch.testing.assert_close(
        encoder(torch.tensor([[encoder.BUCKETS + 7, 0, 0, 0, 0, 0]])),
        encoder(torch.tensor([[7, 0, 0, 0, 0, 0]])),
    )


def test_an_agent_acts_on_its_instruction():
    space = gym.spaces.Dict(
        {"instruction": WORDS, "last_reward": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
    )
    net = ActorCritic(space, gym.spaces.Discrete(3), memory="gru", memory_options={"hidden": 8})
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    words = torch.tensor([[[1, 2, 0, 0, 0, 0]], [[3, 2, 0, 0, 0, 0]]])
    out = net({"instruction": words, "last_reward": torch.zeros(2, 1, 1)}, net.initial_state(2))
    assert (out.policy[0] - out.policy[1]).abs().max() > 1e-3


def test_an_instruction_that_is_no_hashed_words_is_refused():
    for space in (gym.spaces.Text(30), gym.spaces.Box(0, 1, (6,)), gym.spaces.Discrete(4)):
        with pytest.raises(ValueError, match="give hashed words as an integer Box"):
            build_encoder(gym.spaces.Dict({"instruction": space}))


def test_bytes_are_read_about_their_middle_and_old_weights_as_they_were():
    space = gym.spaces.Box(0, 255, (40, 44, 3), np.uint8)
    encoder = build_encoder(space, "small", 8)
    frames = torch.randint(0, 256, (2, 40, 44, 3), dtype=torch.uint8)
    seen = frames.permute(0, 3, 1, 2).float() / 255 - 0.5
    expected = torch.relu(encoder.project(encoder.trunk(seen).flatten(1)))
    torch.testing.assert_close(encoder(frames), expected)

    before = {key: x for key, x in encoder.state_dict().items() if key != "center"}
    old = build_encoder(space, "small", 8)
    old.load_state_dict(before)
    expected = torch.relu(encoder.project(encoder.trunk(seen + 0.5).flatten(1)))
    torch.testing.assert_close(old(frames), expected)
