"""The instruction's reader, and the part it has in a whole agent."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents import ActorCritic, register_encoder
from agents.encoders import (
    IMAGE_ENCODERS,
    InstructionEncoder,
    SmallEncoder,
    build_encoder,
    encoder_names,
    pick,
    registry,
)
from agents.encoders.blocks import fold, fold_filters
from agents.encoders.compiled import compiled
from agents.encoders.spots import Spots

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


U8 = np.uint8
KIND = {"small": (40, 44), "spots": (40, 44), "residual": (36, 40)}


def features(encoder, x):
    with torch.no_grad():
        return encoder(torch.as_tensor(x))


def as_twins(space, twin, image="small"):
    """Encoders of two spaces with the same weights."""
    torch.manual_seed(0)
    one, other = build_encoder(space, image, 8), build_encoder(twin, image, 8)
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.mark.parametrize("image", ["small", "spots", "residual"])
@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0, 255, U8), (0, 1, U8), (0, 7, U8), (-1, 1, np.float32), (-128, 127, np.int8),
     (0, 65535, np.uint16), (0, 255, np.float32), (3, 4, np.float64)],
)  # fmt: skip
def test_frames_of_any_bounds_are_read_as_those_from_0_to_1(image, low, high, kind):
    shape = (*KIND[image], 3)
    space, twin = gym.spaces.Box(low, high, shape, kind), gym.spaces.Box(0, 1, shape, np.float32)
    one, other = as_twins(space, twin, image)
    space.seed(0)
    frames = np.stack([space.sample(), space.low, space.high])
    scaled = (frames.astype(np.float64) - low) / (high - low)
    frames = frames.astype(np.int32) if kind == np.uint16 else frames
    expected = features(other, scaled.astype(np.float32))
    torch.testing.assert_close(features(one, frames), expected, rtol=1e-4, atol=1e-4)
    assert (expected[1] - expected[2]).abs().max() > 1e-2


def test_grey_frames_are_frames_and_those_without_bounds_as_they_are():
    one, other = as_twins(
        gym.spaces.Box(0, 255, (40, 44), U8), gym.spaces.Box(0, 255, (40, 44, 1), U8)
    )
    frame = np.random.default_rng(0).integers(0, 256, (2, 40, 44), U8)
    torch.testing.assert_close(features(one, frame), features(other, frame[..., None]))
    free = build_encoder(gym.spaces.Box(-np.inf, np.inf, (40, 44, 1)), width=8)
    x = torch.randn(2, 40, 44, 1)
    seen = free.trunk(x.permute(0, 3, 1, 2))
    torch.testing.assert_close(free(x), torch.relu(free.project(seen.flatten(1))))


@pytest.mark.parametrize(
    ("space", "twin", "to_twin"),
    [
        (gym.spaces.Box(0, 1, (3,), U8), gym.spaces.Box(0, 1, (3,)), lambda x: x),
        (gym.spaces.Box(0, 255, (2, 2), U8), gym.spaces.Box(0, 1, (2, 2)), lambda x: x / 255),
        (gym.spaces.Box(-3, 1, (3,), np.int64), gym.spaces.Box(-1, 1, (3,)), lambda x: x / 3),
        (gym.spaces.Box(5, 7, (3,), np.int16), gym.spaces.Box(0, 1, (3,)), lambda x: (x - 5) / 2),
        (gym.spaces.MultiBinary([2, 3]), gym.spaces.Box(0, 1, (6,)), lambda x: x.reshape(-1)),
        (gym.spaces.Discrete(4, start=-2), gym.spaces.Discrete(4), lambda x: x + 2),
        (
            gym.spaces.MultiDiscrete([2, 3], start=[5, -1]),
            gym.spaces.MultiDiscrete([2, 3]),
            lambda x: x - [5, -1],
        ),
        (
            gym.spaces.MultiDiscrete([[2, 3], [4, 1]], start=[[1, 2], [-3, 0]]),
            gym.spaces.MultiDiscrete([2, 3, 4, 1]),
            lambda x: x.reshape(-1) - [1, 2, -3, 0],
        ),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)  # fmt: skip
def test_every_space_is_read_as_its_twin(space, twin, to_twin):
    one, other = as_twins(space, twin)
    space.seed(1)
    values = [space.sample() for _ in range(6)]
    expected = np.stack([np.asarray(to_twin(np.asarray(x))) for x in values])
    if isinstance(twin, gym.spaces.Box):
        expected = expected.astype(np.float32)
    torch.testing.assert_close(features(one, np.stack(values)), features(other, expected))


def test_what_follows_from_a_space_is_no_weight():
    for space in (gym.spaces.MultiDiscrete([2], start=[3]), gym.spaces.Discrete(3)):
        assert not build_encoder(space).state_dict()
    assert len(build_encoder(gym.spaces.Box(0, 9, (2,), U8)).state_dict()) == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Discrete(3),
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.Dict(last_reward=gym.spaces.Box(-9, 9, (1,)), x=gym.spaces.Box(-1, 1, (2,))),
        gym.spaces.Dict(action_mask=gym.spaces.MultiBinary(3), x=gym.spaces.Box(-1, 1, (2,))),
    ],
    ids=str,
)
def test_features_are_of_the_networks_type_whatever_is_read(space, dtype):
    assert build_encoder(space).to(dtype)(stacked(space)).dtype == dtype


def stacked(space):
    values = [space.sample() for _ in range(2)]
    if isinstance(space, gym.spaces.Dict):
        return {key: torch.from_numpy(np.stack([x[key] for x in values])) for key in space}
    return torch.from_numpy(np.stack(values))


@pytest.mark.parametrize("image", ["small", "spots", "residual"])
def test_a_device_without_autocast_reads_bytes(image):
    space = gym.spaces.Box(0, 255, (36, 36, 3), U8)
    encoder = build_encoder(space, image).to("meta")
    frames = torch.empty(2, 36, 36, 3, dtype=torch.uint8, device="meta")
    assert encoder(frames).shape == (2, encoder.d_out)


@pytest.mark.parametrize("width", [20, 25])
def test_frames_without_a_pixel_for_each_column_of_spots_are_refused(width):
    with pytest.raises(ValueError, match=f"frames of 36x{width} are too narrow for the 6 columns"):
        build_encoder(gym.spaces.Box(0, 255, (36, width, 3), U8), "spots")


AWKWARD = ["items", "keys", "forward", "a.b", "a%2e%b", "", "training", "_modules", "%", "ä b", "x"]


def test_parts_may_have_any_name():
    parts = {key: gym.spaces.Discrete(i + 2) for i, key in enumerate(AWKWARD)}
    encoder = build_encoder(gym.spaces.Dict(parts))
    observation = {key: torch.tensor([1]) for key in AWKWARD}
    expected = [
        torch.nn.functional.one_hot(torch.tensor([1]), int(parts[key].n)) for key in sorted(AWKWARD)
    ]
    torch.testing.assert_close(encoder(observation), torch.cat(expected, -1).float())
    # Names that torch takes are the weights' names, as in networks saved before.
    saved = build_encoder(gym.spaces.Dict({"my-x": gym.spaces.Box(0, 1, (2,))})).state_dict()
    assert all(name.startswith("parts.my-x.") for name in saved)


def test_a_mask_is_read_bit_by_bit_and_several_sentences_as_sentences():
    space = gym.spaces.Dict(
        {"action_mask": gym.spaces.MultiBinary(3), "instruction:a": WORDS, "instruction:b": WORDS}
    )
    encoder = build_encoder(space)
    words = torch.tensor([[3, 4, 0, 0, 0, 0]])
    observation = {
        "action_mask": torch.tensor([[1, 0, 1]], dtype=torch.int8),
        "instruction:a": words,
        "instruction:b": words,
    }
    y = encoder(observation)
    assert y.shape == (1, 3 + 2 * 64) and y[0, :3].tolist() == [1, 0, 1]


@pytest.mark.parametrize("image", ["small", "spots", "residual"])
def test_what_is_cropped_is_not_seen_and_the_rest_is_read_as_a_frame_of_its_own(image):
    space = gym.spaces.Box(0, 255, (72, 96, 3), np.uint8)
    torch.manual_seed(0)
    cropped = build_encoder(space, image, 32, crop=[8, 4])
    whole = build_encoder(gym.spaces.Box(0, 255, (56, 88, 3), np.uint8), image, 32)
    whole.load_state_dict(cropped.inner.state_dict())
    frames = torch.randint(0, 256, (2, 72, 96, 3), dtype=torch.uint8)
    edges = frames.clone()
    edges[:, :8] = edges[:, -8:] = 0
    edges[:, :, :4] = edges[:, :, -4:] = 255
    torch.testing.assert_close(cropped(frames), whole(frames[:, 8:64, 4:92]))
    torch.testing.assert_close(cropped(edges), cropped(frames))


def test_only_the_images_of_an_observation_are_cropped():
    parts = {
        "frame": gym.spaces.Box(0, 255, (72, 96, 3), np.uint8),
        "pose": gym.spaces.Box(-1, 1, (3,), np.float32),
    }
    encoder = build_encoder(gym.spaces.Dict(parts), "small", 16, crop=[8, 0])
    read = encoder({"frame": torch.zeros(2, 72, 96, 3), "pose": torch.zeros(2, 3)})
    assert read.shape == (2, 32)


@pytest.mark.parametrize(
    ("space", "crop", "says"),
    [
        (gym.spaces.Box(-1, 1, (3,)), [8, 0], "no image"),
        (gym.spaces.Box(0, 255, (72, 96, 3), np.uint8), [36, 0], "leaves nothing"),
        (gym.spaces.Box(0, 255, (72, 96, 3), np.uint8), [31, 0], "too small"),
        (gym.spaces.Box(0, 255, (72, 96, 3), np.uint8), [-1, 0], "at least 0"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(space, crop, says):
    with pytest.raises(ValueError, match=says):
        build_encoder(space, "small", 16, crop=crop)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-1, 1, (3,)),
        gym.spaces.Discrete(3),
        gym.spaces.Dict(a=gym.spaces.Box(0, 1, (2,))),
    ],
    ids=["vector", "discrete", "dict"],
)
def test_an_encoder_of_images_is_refused_where_there_is_none(space):
    with pytest.raises(ValueError, match=r"encoder 'residual' reads images, and there is none in"):
        build_encoder(space, "residual", 16)
    assert build_encoder(space, "small", 16).d_out


class Mean(torch.nn.Module):
    """Features of the mean colour."""

    def __init__(self, space, width):
        super().__init__()
        self.project, self.d_out = torch.nn.Linear(space.shape[2], width), width
        self.norm = torch.nn.BatchNorm1d(width)

    def forward(self, frames):
        return self.change(self.norm(self.project(frames.float().mean((1, 2)))))

    def change(self, features):
        return features


class Widthless(Mean):
    def __init__(self, space, width):
        super().__init__(space, width)
        del self.d_out


def changing(change):
    return type("Changing", (Mean,), {"change": lambda self, features: change(features)})


@pytest.mark.parametrize(
    "cls, said",
    [
        (Widthless, "has no d_out: its __init__ sets it"),
        (changing(lambda x: x[:, :3]), "gave torch.float32 [3, 3] of 3 frames, expected floating"),
        (changing(lambda x: x[:1]), "gave torch.float32 [1, 8] of 3 frames"),
        (changing(lambda x: x.sum(-1)), "gave torch.float32 [3] of 3 frames"),
        (changing(lambda x: (x, x)), "gave tuple of 3 frames"),
        (changing(lambda x: x > 0), "gave torch.bool [3, 8] of 3 frames"),
        (changing(lambda x: x @ x), "cannot read 3 frames, torch.uint8 [3, 40, 40, 3]: RuntimeErr"),
    ],
)
@pytest.mark.parametrize("crop", [(0, 0), (1, 2)])
def test_an_encoder_that_gives_other_features_than_it_says_is_refused(monkeypatch, cls, said, crop):
    monkeypatch.setattr(registry, "IMAGE_ENCODERS", {**IMAGE_ENCODERS})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    register_encoder("odd", cls)
    if any(crop):
        said = said.replace("[3, 40, 40, 3]", "[3, 38, 36, 3]")
    with pytest.raises(ValueError, match="encoder 'odd'") as caught:
        build_encoder(gym.spaces.Box(0, 255, (40, 40, 3), np.uint8), "odd", 8, crop=crop)
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_what_an_encoder_is_asked_leaves_it_as_it_was(monkeypatch):
    monkeypatch.setattr(registry, "IMAGE_ENCODERS", {**IMAGE_ENCODERS})
    register_encoder("mean", Mean)
    made = build_encoder(gym.spaces.Box(0, 255, (40, 40, 3), np.uint8), "mean", 8)
    assert made.training and made.norm.num_batches_tracked == 0


def test_spots_are_the_strongest_answers_less_their_median_and_learn_as_their_naive_twin_does():
    torch.manual_seed(0)
    spots = Spots(3, filters=5, columns=4).double()
    frames = torch.randint(0, 256, (9, 6, 10, 3)).double()  # 10 columns of pixels: 3, 3, 3 and 1
    scale = 1 / 255
    weight = spots.weight.detach().clone().requires_grad_()
    answers = (frames * scale) @ weight.T
    parts = [part.amax((1, 2)) for part in answers.split(3, 2)]  # (N, F) each
    strongest = torch.stack(parts, -1)  # (N, F, K)
    median = strongest.sort(-1).values[..., 1:2]  # of four the second
    naive = (strongest - median).flatten(1)
    fast = spots(spots.pick(frames), scale)
    torch.testing.assert_close(fast, naive)
    toward = torch.randn_like(naive)
    (fast * toward).sum().backward()
    (naive * toward).sum().backward()
    torch.testing.assert_close(spots.weight.grad, weight.grad)


@pytest.mark.parametrize("colours", [2, 300, 8000])
@pytest.mark.parametrize("size", [(64, 96), (5, 37)])
def test_colours_searched_once_answer_as_pixels_searched_one_by_one(size, colours):
    """Few colours come again and again, and many push each other out of the table of those that were seen."""
    torch.manual_seed(0)
    spots = Spots(3)
    palette = torch.randint(0, 256, (colours, 3), dtype=torch.uint8)
    frames = palette[torch.randint(0, colours, (3, *size))]
    searched, one_by_one = spots.pick(frames), spots._pick_pixels(frames)
    assert searched.dtype == torch.uint8 and searched.shape == one_by_one.shape == (3, 64, 6, 3)
    # Of two that answer alike either may win: their answers differ by the rounding of three products.
    room = 4 * torch.finfo(torch.float32).eps * 255 * spots.GAIN * 3
    torch.testing.assert_close(spots(searched), spots(one_by_one), rtol=0, atol=room)
    wide = -(-size[1] // 6)
    for k in range(6):
        own = frames[:, :, k * wide : (k + 1) * wide].flatten(1, 2)  # (N, pixels, 3)
        same = (searched[:, :, k, None] == own[:, None]).all(-1)  # (N, F, pixels)
        assert same.any(-1).all()


@pytest.mark.parametrize("columns", [1, 2, 5, 6])
@pytest.mark.parametrize("colours", [1, 3, 10_000])
def test_answers_to_bytes_and_their_gradient_are_those_to_the_same_numbers_as_floats(
    colours, columns
):
    """Few colours answer alike in several columns, and then it does not matter which of them is the middle one."""
    torch.manual_seed(0)
    spots, scale = Spots(3, filters=7, columns=columns), 1 / 255
    palette = torch.randint(0, 256, (colours, 3), dtype=torch.uint8)
    picked = palette[torch.randint(0, colours, (9, 7, columns))]
    exact = Spots(3, filters=7, columns=columns).double()
    exact.load_state_dict(spots.state_dict())
    fast, naive = spots(picked, scale), exact(picked, scale)
    eps = torch.finfo(torch.float32).eps
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), naive, rtol=0, atol=8 * eps * 3 * spots.GAIN)
    toward = torch.randn(fast.shape)
    (fast * toward).sum().backward()
    (naive * toward).sum().backward()
    assert exact.weight.grad is not None and spots.weight.grad is not None
    largest = float(exact.weight.grad.abs().max()) + 1e-9
    torch.testing.assert_close(
        spots.weight.grad.double(), exact.weight.grad, rtol=0, atol=4 * eps * max(largest, 1.0)
    )


def test_filters_that_are_no_numbers_answer_with_none_and_leave_the_others_alone():
    torch.manual_seed(0)
    spots = Spots(3, filters=4)
    picked = torch.randint(0, 256, (5, 4, 6, 3), dtype=torch.uint8)
    whole = spots(picked)
    whole.sum().backward()
    right, spots.weight.grad = spots.weight.grad, None
    with torch.no_grad():
        spots.weight[1, 2] = torch.nan
    broken = spots(picked)
    broken.sum().backward()
    others = [0, 2, 3]
    assert broken.view(5, 4, 6)[:, 1].isnan().all()
    assert torch.equal(broken.view(5, 4, 6)[:, others], whole.view(5, 4, 6)[:, others])
    assert torch.equal(spots.weight.grad[others], right[others])
    # As if the first column were the middle one.
    first = picked[:, 1].float() - picked[:, 1, :1].float()
    torch.testing.assert_close(spots.weight.grad[1], first.sum((0, 1)), rtol=0, atol=0)


def test_how_many_frames_are_searched_at_once_changes_nothing(monkeypatch):
    torch.manual_seed(0)
    spots = Spots(3, filters=8)
    frames = torch.randint(0, 256, (11, 9, 13, 3), dtype=torch.uint8)
    picked = []
    for at_once in (1, 4, 256):
        monkeypatch.setattr(Spots, "AT_ONCE", at_once)
        picked.append(spots._pick_pixels(frames))
    assert torch.equal(picked[0], picked[1]) and torch.equal(picked[0], picked[2])


def test_a_gpu_does_not_answer_to_all_frames_of_a_batch_at_once(monkeypatch):
    real, rows = torch.mm, []

    def mm(pixels, weight, **kwargs):
        rows.append(len(pixels))
        return real(pixels, weight, **kwargs)

    monkeypatch.setattr(torch, "mm", mm)
    frames = torch.empty(600, 4, 12, 3, dtype=torch.uint8, device="meta")
    assert Spots(3).to("meta").pick(frames).shape == (600, 64, 6, 3)
    assert sum(rows) == 600 * 4 * 12 and max(rows) == 256 * 4 * 12


def test_colours_are_searched_where_compiled_code_cannot_be_kept(monkeypatch):
    import numba

    def njit(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    frames, net = torch.randint(0, 256, (1, 4, 12, 3), dtype=torch.uint8), Spots(3, filters=2)
    compiled.cache_clear()
    try:
        plain = net.pick(frames)
    finally:
        compiled.cache_clear()
    monkeypatch.undo()
    assert torch.equal(plain, net.pick(frames))


FRAMES = {
    "bytes": gym.spaces.Box(0, 255, (72, 96, 3), np.uint8),
    "gray": gym.spaces.Box(0, 255, (72, 96), np.uint8),
    "signed": gym.spaces.Box(-128, 127, (40, 44, 3), np.int8),
    "floats": gym.spaces.Box(-1, 1, (40, 44, 4), np.float32),
}


@pytest.mark.parametrize("crop", [(0, 0), (2, 1)])
@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("name", encoder_names())
def test_what_an_encoder_picked_gives_the_features_that_it_gives_without(name, frames, crop):
    space = gym.spaces.Dict({"frame": FRAMES[frames], "place": gym.spaces.Discrete(3)})
    torch.manual_seed(0)
    encoder = build_encoder(space, name, 16, crop)
    seen = {"frame": torch.from_numpy(np.stack([space["frame"].sample() for _ in range(5)])),
            "place": torch.arange(5) % 3}  # fmt: skip
    picked = pick(encoder, seen)
    assert (picked is None) == (name != "spots")
    if picked is None:
        return
    assert set(picked) == {"frame"} and picked["frame"].dtype == seen["frame"].dtype
    assert len(picked["frame"]) == 5
    grads = []
    for again in (None, picked):
        features = encoder(seen, again)
        encoder.zero_grad()
        features.square().sum().backward()
        grads.append([features, *(p.grad.clone() for p in encoder.parameters())])
    for plain, given in zip(*grads, strict=True):
        assert torch.equal(plain, given)


@pytest.mark.parametrize("low", [0, 3])
@pytest.mark.parametrize("shape", [(72, 96, 3), (72, 96)])
@pytest.mark.parametrize("name", encoder_names())
def test_bytes_in_bfloat16_are_what_autocast_makes_of_the_same_numbers_as_floats(name, shape, low):
    """Bytes are cast at once, floats by autocast on the way into the first layer: the same to the last bit.

    Where the first layer reads blocks of pixels its sums have another order, and a number that lies between two of
    bfloat16's may become the other one: 2^-8 of it, a few times over on the way to a gradient.
    """
    folds = issubclass(IMAGE_ENCODERS[name], SmallEncoder)
    torch.manual_seed(0)
    encoder = build_encoder(gym.spaces.Box(low, 255, shape, np.uint8), name, 16)
    frames = torch.randint(low, 256, (5, *shape), dtype=torch.uint8)
    picked = pick(encoder, frames)
    grads = []
    for seen in (frames, frames.float()):
        given = () if picked is None else (picked.to(seen.dtype),)
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(seen, *given)
        encoder.zero_grad()
        features.float().square().sum().backward()
        grads.append([features, *(p.grad.clone() for p in encoder.parameters())])
    for direct, cast in zip(*grads, strict=True):
        if folds:
            assert (direct - cast).abs().max() <= 8 * 2**-8 * cast.abs().max()
        else:
            assert torch.equal(direct, cast)


@pytest.mark.parametrize("shape", [(72, 96, 3), (75, 93, 3), (41, 39, 5), (36, 36, 1)])
def test_a_layer_answers_folded_frames_as_it_does_whole_ones(shape):
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    weight = torch.randn(16, shape[-1], 8, 8, dtype=torch.float64, requires_grad=True)
    whole = torch.conv2d(frames.double().permute(0, 3, 1, 2), weight, stride=4)
    blocks = fold(frames, 4, torch.float64).permute(0, 3, 1, 2)
    folded = torch.conv2d(blocks, fold_filters(weight, 4))
    torch.testing.assert_close(folded, whole)
    (grad,), (grad_folded,) = (torch.autograd.grad(y.square().sum(), weight)
                               for y in (whole, folded))  # fmt: skip
    torch.testing.assert_close(grad_folded, grad)


@pytest.mark.parametrize("shape", [(72, 96, 3), (75, 93, 3), (41, 39, 5), (36, 36, 1)])
def test_a_cpu_folds_bytes_to_bfloat16_in_one_pass_wherever_they_lie(shape):
    frames = torch.arange(256, dtype=torch.uint8).repeat(3 * 75 * 96 * 5 // 256)
    frames = frames[torch.randperm(len(frames))][: 3 * math.prod(shape)].view(3, *shape)
    odd = torch.empty(frames.numel() + 1, dtype=torch.uint8)[1:].view_as(frames).copy_(frames)
    for part in (frames, frames[:, 8:-8], frames[:, :, 4:-8], frames[1:2, 3:], odd):
        height, width, channels = part.shape[1] // 4, part.shape[2] // 4, part.shape[3]
        naive = (
            part[:, : 4 * height, : 4 * width].unflatten(2, (width, 4)).unflatten(1, (height, 4))
        )
        naive = naive.transpose(2, 3).reshape(len(part), height, width, 16 * channels)
        for dtype in (torch.bfloat16, torch.float32):
            folded = fold(part, 4, dtype)
            assert folded.dtype == dtype and torch.equal(folded, naive.to(dtype))


def test_answers_at_pixels_picked_before_an_update_are_right_to_first_order():
    torch.manual_seed(0)
    spots = Spots(3).double()
    frames = torch.randint(0, 256, (20, 56, 96, 3)).double()
    before, toward = spots.weight.detach().clone(), torch.randn_like(spots.weight)
    picked, lost = spots.pick(frames), []
    for step in (0.02, 0.2, 2.0):  # filters are 12 long
        with torch.no_grad():
            spots.weight.copy_(before + step * toward)
        strongest = ((spots.pick(frames) / 255) * spots.weight[:, None]).sum(-1)
        here = ((picked / 255) * spots.weight[:, None]).sum(-1)
        assert (here <= strongest + 1e-12).all()
        lost.append((strongest - here).mean().item())
    assert lost[0] < lost[1] / 30 < lost[2] / 900  # a first-order term would be a tenth each time


def test_a_spot_is_seen_wherever_it_stands_in_its_column():
    encoder = build_encoder(gym.spaces.Box(0, 255, (72, 96, 3), np.uint8), "spots", 16)
    frames = torch.full((3, 72, 96, 3), 90, dtype=torch.uint8)
    for n, (row, column) in enumerate([(20, 33), (60, 46), (60, 48)]):  # columns are 16 pixels wide
        frames[n, row, column] = torch.tensor([250, 10, 200])
    read = encoder.spots(encoder.pick(frames).float(), encoder.scale)
    torch.testing.assert_close(read[0], read[1])
    assert (read[1] - read[2]).abs().max() > 0.1
