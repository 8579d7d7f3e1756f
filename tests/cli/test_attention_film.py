"""The attention film: what it is told, what it draws, and what odd environments and missing tools make of it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from agents import ActorCritic
from ct_rl import evaluate, video
from ct_rl.action_bars import draw_choices
from ct_rl.attention_film import AttentionFilm
from ct_rl.drawing import BACKGROUND, GOOD, PANEL, PLACES, shortened, text, text_width
from ct_rl.errors import RunFailed, UserError
from ct_rl.evaluation import film
from ct_rl.filming import filmed_env
from ct_rl.insight import COMPRESSED, MEMORY, WINDOW, Attended, Insight, drawn_observation
from ct_rl.strips import Axis, picks
from ct_rl.top_map import draw_map, path_breaks
from tests.cli.conftest import command

SIZES = {"d_model": 8, "n_heads": 2, "n_layers": 2, "window": 4, "memory": 4}
MEMORIES = {
    "compressive": {**SIZES, "compressed": 3, "rate": 2},
    "transformer_xl": SIZES,
    "gru": {"d_model": 8, "hidden": 8},
}


class Walk(gym.Env):
    """A walk on a line of 30 steps, in three trials; its picture and its info are as the test likes."""

    observation_space = gym.spaces.Box(-9, 9, (3,), np.float32)
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, picture=None, render_mode="rgb_array", told=True, actions=None):
        self.picture, self.render_mode, self.told = picture, render_mode, told
        self.action_space = actions or gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._seen()

    def _seen(self):
        info = {"position": np.array([self.t, self.t % 7.0]), "yaw": 90.0, "trial": self.t // 10}
        obs = self.np_random.normal(size=3).astype(np.float32)
        return obs, info if self.told else {}

    def step(self, action):
        self.t += 1
        obs, info = self._seen()
        return obs, float(self.t % 9 == 0) - float(self.t % 10 == 0), self.t == 30, False, info

    def render(self):
        return self.picture(self.t) if callable(self.picture) else self.picture


def network(memory="compressive", env=None):
    env = env or Walk()
    torch.manual_seed(0)
    net = ActorCritic(env.observation_space, env.action_space, memory=memory, width=8,
                      memory_options=MEMORIES[memory]).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return net


def grey(t):
    return np.full((6, 8, 3), 8 * t, np.uint8)


def moments(env=None, memory="compressive", episodes=1, **more):
    env = env or Walk(grey)
    return list(film(network(memory, env), env, episodes, seed=3, greedy=False, watch=True, **more))


def frames(seen, memory="compressive", horizon=14):
    drawn = AttentionFilm(memory, horizon)
    return [drawn.compose(moment) for moment in seen]


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_watched_agent_acts_as_it_does_unwatched(memory):
    seen = moments(memory=memory, episodes=2)
    plain = list(film(network(memory), Walk(grey), 2, seed=3, greedy=False))
    assert [m.action for m in seen] == [m.action for m in plain] and len(seen) == 62
    assert [m.total for m in seen] == [m.total for m in plain]
    assert all((m.insight is None) == (m.action == "end") for m in seen)
    assert all(m.insight is None for m in plain)


def test_an_insight_is_of_the_steps_own_episode():
    for moment in moments(episodes=2)[:-1]:
        insight = moment.insight
        if insight is None:
            continue
        look = insight.look
        assert look.last.max() == moment.step and look.first.min() >= 0
        np.testing.assert_allclose(look.weights.sum(1), 1, atol=1e-5)
        np.testing.assert_allclose(look.shares.sum(1), 1, atol=1e-5)
        for kind in (COMPRESSED, MEMORY, WINDOW):
            mine = look.weights[:, look.kind == kind].sum(1)
            np.testing.assert_allclose(mine, look.shares[:, kind], atol=1e-5)
        assert (np.diff(look.first) > 0).all()  # oldest first
        assert look.kl[-1] == 0 and (moment.step == 0 or look.kl.max() > 0)
        assert insight.trial == moment.step // 10 and insight.position[0] == moment.step
        assert sum(share for _, share in insight.choices) == pytest.approx(1)


def test_the_pictures_below_are_the_frames_of_the_steps_that_are_named():
    seen = moments()
    drawn = AttentionFilm("compressive", 14)
    for moment in seen[:26]:
        frame = drawn.compose(moment)
    look = seen[25].insight.look
    chosen = picks(look, look.mean, 25, drawn.axis.span)
    assert chosen and all(look.first[n] < 25 for n in chosen)
    for column, n in enumerate(chosen):
        middle = frame[530:540, 656 + 124 * column + 50 :][:, :10]
        if not (middle == middle[0, 0]).all():
            pytest.fail("no picture where one should be")
        assert middle[0, 0, 0] == 8 * look.middle[n]


def test_each_kind_of_place_has_its_colour_and_events_are_marked():
    frame = frames(moments())[29]
    strips = frame[140:360, 720:1266].reshape(-1, 3)
    for color in PLACES:
        assert (strips == color).all(1).any()
    value = frame[40:102, 720:1266].reshape(-1, 3)
    for color in ((0, 190, 140), (240, 100, 30), (240, 228, 66)):  # rewards and the value
        assert (value == color).all(1).any()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((2, 3, 3), np.uint8),
        np.full((9, 5, 4), 200, np.uint8),
        np.zeros((900, 40), np.uint8),
    ],
    ids=["tiny", "RGBA", "tall and grey"],
)
def test_odd_pictures_fit_into_the_film(picture):
    drawn = frames(moments(Walk(picture))[:3])
    assert all(frame.shape == (720, 1280, 3) and frame.dtype == np.uint8 for frame in drawn)


@pytest.mark.parametrize("env", [Walk(None), Walk(None, render_mode=None)])
def test_an_environment_that_draws_nothing_shows_its_observation(env):
    seen = moments(env)
    assert all(moment.picture.shape == (240, 320, 3) for moment in seen)
    assert len({moment.picture.tobytes() for moment in seen}) == 31
    assert frames(seen)[-1].shape == (720, 1280, 3)


def test_a_frame_among_the_observations_is_the_picture():
    frame = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert drawn_observation({"last_reward": np.zeros(1), "frame": frame}) is frame
    numbers = drawn_observation({"x": np.array([np.nan, np.inf, -1e30, 0.0])})
    assert numbers.std() > 0


def test_memories_without_attention_and_environments_without_places_show_the_rest():
    told, silent = frames(moments(memory="gru"), "gru", None), Walk(grey, told=False)
    assert len(told) == 31
    seen = moments(silent)
    assert all(m.insight.position is None and m.insight.trial is None for m in seen[:-1])
    assert (frames(seen)[20] != frames(moments())[20]).any()


@pytest.mark.parametrize(
    "actions",
    [
        gym.spaces.MultiDiscrete([2, 3]),
        gym.spaces.Box(-1, 1, (40,), np.float32),
        gym.spaces.Discrete(90),
    ],
)
def test_any_policy_is_drawn(actions):
    seen = moments(Walk(grey, actions=actions), max_steps=4)
    assert len(frames(seen)) == 5
    names = [name for name, *_ in seen[0].insight.choices]
    assert (
        len(set(names))
        == len(names)
        == (5 if isinstance(actions, gym.spaces.MultiDiscrete) else len(names))
    )
    parts = {gym.spaces.MultiDiscrete: 2, gym.spaces.Box: 0, gym.spaces.Discrete: 1}[type(actions)]
    assert len(seen[0].taken) == parts and set(seen[0].taken) <= set(names)


def test_the_action_taken_is_marked_however_unlikely_it_was():
    choices = [(f"{i}", 0.02 - i * 1e-4) for i in range(60)]
    drawn = []
    for taken in ((), ("59",)):
        frame = np.zeros((200, 400, 3), np.uint8)
        draw_choices(frame, (0, 0, 400, 200), choices, taken)
        drawn.append((frame == GOOD).all(-1).sum())
    assert drawn[0] == 0 and drawn[1] > 0


def test_long_episodes_and_deep_memories_keep_within_the_picture():
    look = Attended(
        weights=np.full((50, 3), 1 / 3), shares=np.full((50, 3), 1 / 3), kind=np.array([0, 1, 2]),
        first=np.array([0, 9_000, 9_999]), last=np.array([8_000, 9_000, 9_999]), kl=np.array([0.5, 0, 0]),
    )  # fmt: skip
    drawn = AttentionFilm("compressive", None)
    drawn.episode, drawn.values, drawn.rewards = 1, [0.0] * 9_999, [1.0] * 9_999
    drawn.trials, drawn.shares = [None] * 9_999, [look.shares] * 9_999
    (first, *_) = moments()
    insight = Insight(value=1e9, choices=[("go" * 99, 1.0)], look=look)
    moment = type(first)(first.picture, 1, 9_999, -1e7, 1e-9, "go" * 99, ("go" * 99,), insight)
    assert drawn.compose(moment).shape == (720, 1280, 3)
    assert drawn.small.keys() == {9_999}


def test_picks_are_the_greatest_apart_from_each_other_and_in_order_of_time():
    count = 40
    weight = np.linspace(0.01, 0.05, count)
    weight[[4, 5, 20, 39]] = 0.3, 0.4, 0.2, 0.9
    steps = np.arange(count)
    look = Attended(weight[None], np.ones((1, 3)) / 3, np.full(count, WINDOW), steps, steps, weight)
    assert picks(look, weight, now=39, span=96, count=2) == [5, 20]
    assert picks(look, np.zeros(count), now=39, span=96) == []


def test_the_axis_ends_at_the_present_and_holds_what_is_older_at_its_left_end():
    axis = Axis(100, 300, 50)
    assert axis.x(70, now=69) == 300 and axis.x(69, now=69) == 296 and axis.x(20, now=69) == 100
    assert axis.x(0, now=69) == 100


def test_a_path_breaks_at_trials_and_jumps_and_the_map_keeps_within_its_box():
    path = np.array([[0, 0], [1, 0], [2, 0], [2, 0], [90, 0], [91, 0], [92, 0]], float)
    assert path_breaks(path, [0] * 6 + [1]).tolist() == [False] * 4 + [True, False, True]
    assert path_breaks(path[:1], [0]).tolist() == [False]
    for points in (path, path[:1], path[3:4].repeat(3, 0)):
        frame = np.full((60, 80, 3), 7, np.uint8)
        marks = [(np.array([1e9, -1e9]), (255, 0, 0))]
        breaks = path_breaks(points, [None] * len(points))
        draw_map(frame, (10, 10, 40, 30), points, breaks, yaw=45.0, marks=marks)
        assert (frame[10:40, 10:50] != 7).any() and (frame[20:30, 20:40] != PANEL).any()
        frame[10:40, 10:50] = 7
        assert (frame == 7).all()


def test_text_is_cut_to_its_place():
    assert shortened("short", 500, 12) == "short"
    cut = shortened("a very long name of an action", 80, 12)
    assert cut.endswith("...") and text_width(cut, 12) <= 80
    frame = np.full((30, 50, 3), BACKGROUND, np.uint8)
    text(frame, "wider than the frame", (30, 20), 20)  # must not raise
    assert (frame[20:, 30:] != BACKGROUND).any()


@pytest.mark.slow
def test_the_film_and_its_gif_are_whole_files(tmp_path):
    path, seen = tmp_path / "a.mp4", moments()
    assert video.write(path, seen, 10, AttentionFilm("compressive", 14).compose) == 37
    facts = next(imageio_ffmpeg.read_frames(path))
    assert facts["codec"] == "h264" and facts["size"] == (1280, 720)
    assert facts["pix_fmt"].startswith("yuv420p")
    video.write_gif(tmp_path / "a.gif", path)
    assert (tmp_path / "a.gif").read_bytes()[:6] == b"GIF89a"
    with pytest.raises(RunFailed, match="could not be made"):
        video.write_gif(tmp_path / "b.gif", tmp_path / "none.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.gif", "a.mp4"]


def test_an_ffmpeg_without_h264_or_none_at_all_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch
):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho ' V....D mpeg4    MPEG-4 part 2'\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    for exe, says in ((fake, "has no H.264 encoder"), ("/nowhere/ffmpeg", "cannot be run")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(exe))
        with pytest.raises(RunFailed, match=says) as error:
            video.write(tmp_path / "v" / "a.mp4", moments()[:3], 10)
        assert "reinstall imageio-ffmpeg" in str(error.value) and "\n" not in str(error.value)
    assert not any((tmp_path / "v").iterdir())


@pytest.mark.slow
def test_a_film_that_the_disk_has_no_room_for_is_one_line_and_leaves_nothing(tmp_path):
    """As a full disk does, a limit on a file's size cuts it off in the middle."""
    words = (
        "import resource, sys; from pathlib import Path; from ct_rl import video; "
        "from tests.cli.test_attention_film import moments; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)); "
        "video.write(Path(sys.argv[1]), moments(), 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, str(tmp_path / "a.mp4")], capture_output=True, text=True
    )
    assert "RunFailed: the film could not be written into" in done.stderr.splitlines()[-1]
    assert not any(tmp_path.iterdir())


def test_an_environment_that_cannot_draw_is_filmed_with_attention_alone(capsys):
    gym.register("NoPicture-v0", lambda **kwargs: NoPicture(**kwargs))
    with pytest.raises(UserError, match="render_mode"):
        filmed_env("NoPicture-v0", False, {})
    env = filmed_env("NoPicture-v0", True, {})
    assert env.render_mode is None
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("note: the film shows the observation, no picture: ")


class NoPicture(Walk):
    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self):
        super().__init__(render_mode=None)


@pytest.mark.parametrize("flag", ["--attention", "--gif", "--speed=2", "--video-episodes=9"])
def test_flags_of_the_video_need_one(flag, tmp_path):
    name = flag.partition("=")[0]
    with pytest.raises(UserError, match=f"{name} is of the video: give --video too"):
        evaluate.command([str(tmp_path), flag])


def test_evaluation_films_attention_and_never_loses_scores_with_a_film(trained, monkeypatch):
    run, *_ = trained
    words = ("ct_rl.evaluate", run, "--episodes", 1, "--actions", "greedy", "--video", "--attention",
             "--video-episodes", 1, "--env-option", "seconds=2")  # fmt: skip
    status, out, err = command(*words, "--gif")
    assert status == 0, out + err
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:1].isalpha())
    assert said["video"].endswith("_greedy_attention.mp4")
    assert Path(said["gif"]).read_bytes()[:6] == b"GIF89a"
    assert json.loads(Path(said["scores"]).read_text())["video"] == said["video"]
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/nowhere/ffmpeg")
    status, out, err = command(*words)
    assert status == 0, out + err
    said = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:1].isalpha())
    assert said["note:"].startswith("no video: the ffmpeg '/nowhere/ffmpeg' cannot be run")
    assert json.loads(Path(said["scores"]).read_text())["scores"]["greedy"]["episodes"] == 1
