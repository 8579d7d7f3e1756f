"""Evaluation of a short run: scores, JSON, video; and the parts it is made of."""

import errno
import json
import multiprocessing
import re
import shutil
from pathlib import Path

import cv2
import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest

import envs
from agents import ActorCritic
from ct_rl import checkpoint, evaluation, load_agent, video
from ct_rl.algorithm import evaluation_options, lasting_options
from ct_rl.config import TrainConfig
from ct_rl.errors import RunFailed, UserError
from ct_rl.evaluation import Moment, film, play, score_episodes
from ct_rl.evaluation_file import (
    MAX_STEPS,
    Evaluation,
    evaluation_files,
    new_evaluation,
    played_otherwise,
    read_evaluation,
)
from ct_rl.plain_files import require_writable, write_new
from ct_rl.scores import EnvFacts, human_normalised
from ct_rl.trained import Trained
from envs.seeding import world_seeds
from tests.cli.conftest import command


@pytest.fixture(scope="module")
def evaluated(trained):
    run, *_ = trained
    status, out, err = command(
        "ct_rl.evaluate", run, "--episodes", 3, "--video", "--video-episodes", 1,
        "--env-option", "seconds=2",
    )  # fmt: skip
    assert status == 0, out + err
    # Other tests may have evaluated this run before.
    path = max((run / "evaluations").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return run, out, json.loads(path.read_text())


def test_frames_are_trainings_whatever_an_action_lasts_in_the_evaluation(trained):
    run, *_ = trained
    status, out, err = command(
        "ct_rl.evaluate", run, "--episodes", 1, "--actions", "greedy",
        "--env-option", "seconds=1", "action_repeat=2",
    )  # fmt: skip
    assert status == 0, out + err
    steps, frames = re.search(r"([\d,]+) agent steps, ([\d,]+) frames", out).groups()
    assert int(frames.replace(",", "")) == 4 * int(steps.replace(",", ""))
    report = json.loads(Path(re.search(r"scores +(.+\.json)", out)[1]).read_text())
    assert report["frames"] == 4 * report["steps"]


def test_both_ways_of_acting_are_scored_as_table_and_json(evaluated):
    _, out, report = evaluated
    for way in ("sampled", "greedy"):
        score, episodes = report["scores"][way], report["episodes"][way]
        returns = [episode["return"] for episode in episodes]
        assert len(returns) == score["episodes"] == 3
        assert score["mean"] == pytest.approx(np.mean(returns))
        assert score["standard_error"] == pytest.approx(np.std(returns, ddof=1) / 3**0.5)
        assert score["median"] == np.median(returns) and score["best"] == max(returns)
        assert all(episode["length"] == 30 for episode in episodes)  # 2 s of 15 steps
        assert f"{way} actions" in out
    for line in ("mean return", "standard error", "human-normalised", "trials / episode"):
        assert line in out


def test_the_level_is_evaluated_as_it_is(evaluated):
    _, _, report = evaluated
    assert report["env_options"] == {"seconds": 2}  # the recipe trains with a nearer start


def test_an_evaluation_keeps_what_the_network_was_built_for():
    config = TrainConfig()
    config.env.options = {"height": 84, "actions": "extended", "spawn": [-232, 10], "stagger": True}
    assert lasting_options(config) == {"height": 84, "actions": "extended"}
    config.env.name, config.env.options = "VizdoomBasic-v1", {"frame_skip": 4}
    assert lasting_options(config) == {"frame_skip": 4}


def test_the_video_plays_in_browsers_at_real_time_and_watching_size(evaluated):
    _, _, report = evaluated
    frames = imageio_ffmpeg.read_frames(report["video"])
    facts = next(frames)
    assert facts["codec"] == "h264" and facts["pix_fmt"].startswith("yuv420p")
    assert facts["fps"] == 15
    width, height = facts["size"]
    assert width >= 640 and height >= 480 and width % 2 == height % 2 == 0
    pictures = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]
    assert len(pictures) == 30 + round(0.7 * 15)  # a picture a step, and the held last one
    assert len({picture.tobytes() for picture in pictures}) > 5
    strip = pictures[0][480:]
    assert strip.max() > 180  # text
    start = Path(report["video"]).read_bytes()[:4096]
    assert b"moov" in start  # the index stands in front: playing starts before all has come


def test_missing_and_damaged_checkpoints_are_named(trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_bytes((trained[0] / "config.yaml").read_bytes())
    status, _, err = command("ct_rl.evaluate", run)
    assert status == 2 and len(err.splitlines()) == 1 and "no checkpoint" in err
    broken = run / "checkpoints" / "step_000000000005"
    broken.mkdir(parents=True)
    (broken / "manifest.json").write_text("{")
    status, _, err = command("ct_rl.evaluate", run)
    assert status == 2 and "manifest.json is not JSON" in err and len(err.splitlines()) == 1


def test_an_agent_of_an_older_checkpoint_says_so(trained, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    newest = run / "checkpoints" / f"step_{checkpoint.steps(run / 'checkpoints')[-1] + 1:012d}"
    newest.mkdir()
    (newest / "manifest.json").write_text("{")
    assert load_agent(run).description["steps"] == checkpoint.steps(run / "checkpoints")[-2]
    err = capsys.readouterr().err
    assert "manifest.json is not JSON" in err and "falling back" in err


class Counting:
    """Two worlds of 2 and 3 steps; every step pays 1, NEXT_STEP resets pay 100 to nobody."""

    num_envs = 2

    def __init__(self):
        self.lengths, self.t = np.array([2, 3]), np.zeros(2, int)
        self.ended = np.zeros(2, bool)

    def reset(self, seed):
        self.seed = seed
        return self.t.astype(np.float32)[:, None], {}

    def step(self, actions):
        rewards = np.where(self.ended, 100.0, 1.0)
        self.t = np.where(self.ended, 0, self.t + 1)
        self.ended = self.t == self.lengths
        info = {"wins": self.t, "rare": np.array([7, 0]), "_rare": np.array([True, False])}
        obs = self.t.astype(np.float32)[:, None]
        return obs, rewards, self.ended.copy(), np.zeros(2, bool), info


def following(resets_seen):
    """A real network that notes what its memory is told of each new episode."""
    space = gym.spaces.Box(-100, 100, (1,), np.float32)
    net = ActorCritic(space, gym.spaces.Discrete(2), memory="gru", width=4,
                      memory_options={"d_model": 4, "hidden": 4}).eval()  # fmt: skip
    step = net.step

    def noting(observation, state, resets):
        resets_seen.append((observation[:, 0].numpy() == 0, resets.numpy().copy()))
        return step(observation, state, resets)

    net.step = noting
    return net


def test_every_world_plays_its_share_and_reset_steps_do_not_count():
    env, seen = Counting(), []
    played = play(following(seen), env, 5, seed=3, greedy=False, metrics=("wins", "rare"))
    assert env.seed == world_seeds(3, 2, evaluation=True)
    assert sorted(episode["return"] for episode in played) == [2, 2, 2, 3, 3]
    assert all(episode["length"] == episode["return"] == episode["wins"] for episode in played)
    assert all((told == begins).all() for begins, told in seen)
    assert sorted("rare" in episode for episode in played) == [False, False, True, True, True]
    means = score_episodes(played, EnvFacts(episode_metrics=("wins", "rare", "never")))
    assert means["rare"] == 7 and "never" not in means  # averaged over those that gave it


def test_an_environment_that_never_ends_is_cut_at_a_limit_of_steps():
    env = Counting()
    env.lengths = np.array([2, 10**9])
    played = play(following([]), env, 5, seed=3, greedy=True, max_steps=50)
    assert [episode["length"] for episode in played] == [2, 2, 2, 50]
    score = score_episodes(played, EnvFacts())
    assert score["unfinished"] == 1 and score["episodes"] == 4


class Dying(Counting):
    """World 1 dies in step 2 of its first `deaths` episodes, after which its return would be 102."""

    def __init__(self, deaths):
        super().__init__()
        self.deaths = deaths

    def step(self, actions):
        obs, rewards, terminated, truncated, info = super().step(actions)
        died = np.array([False, self.t[1] == 2 and self.deaths > 0])
        self.deaths -= int(died[1])
        self.ended = self.ended | died
        return obs, rewards + 100 * died, terminated, truncated | died, {**info, "lost": died * 1}


def test_an_episode_whose_world_died_is_in_no_score_and_another_is_played_for_it():
    played = play(following([]), Dying(3), 4, seed=3, greedy=True, metrics=("wins",))
    assert sorted((e["return"], "lost" in e) for e in played) == [
        (2, False), (2, False), (3, False), (3, False), (102, True), (102, True), (102, True),
    ]  # fmt: skip
    score = score_episodes(played, EnvFacts(episode_metrics=("wins",)))
    assert (score["lost"], score["episodes"], score["best"], score["mean"]) == (3, 4, 3, 2.5)
    assert score["wins"] == score["length"] == 2.5
    assert score_episodes(played[:1], EnvFacts())["lost"] is None


def test_worlds_that_only_die_end_the_evaluation_in_a_line():
    with pytest.raises(RunFailed, match="died in 15 episodes, and 2 of 4 came to their end"):
        play(following([]), Dying(10**9), 4, seed=3, greedy=True)


class Wrong(Counting):
    def step(self, actions):
        raise self.error


class Shown(gym.Env):
    def __init__(self, error):
        self.error = error

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        raise self.error

    def render(self):
        return np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("door"), "KeyError: 'door' .*test_evaluate.py, line .* in step"),
        (ValueError("the observation of world 1"), "the observation of world 1$"),
    ],
)
def test_an_error_of_the_environment_ends_the_evaluation_in_a_line(error, said):
    env, net = Wrong(), following([])
    del net.step  # the network's own again
    env.error = error
    with pytest.raises(RunFailed, match=f"^playing stopped: {said}"):
        play(following([]), env, 4, seed=3, greedy=True)
    with pytest.raises(RunFailed, match=f"^playing stopped: {said}"):
        list(film(net, Shown(error), 1, seed=3, greedy=True))
    env.reset = lambda **_: env.step(None)
    with pytest.raises(RunFailed, match=f"^playing stopped: {said}"):
        play(following([]), env, 4, seed=3, greedy=True)


def test_a_film_shows_the_episodes_that_were_scored():
    """Their environment's seeds, too, are evaluation's and never training's."""
    made = {"engine": "embedded", "renderer": "cpu", "seconds": 0.5}
    several = envs.make_vec("dmlab_rooms_select", 3, **made)
    one = envs.make("dmlab_rooms_select", render_mode="rgb_array", **made)
    net = ActorCritic(one.observation_space, one.action_space, memory="identity", width=4).eval()
    begun, seen = [], []
    for env, notes in ((several, begun), (one, seen)):
        reset = env.reset

        def noting(*, notes=notes, reset=reset, **given):
            obs, info = reset(**given)
            notes.append((info["match"], info["other"], info["example_side"], info["match_side"]))
            return obs, info

        env.reset = noting
    play(net, several, 3, seed=3, greedy=True)
    list(film(net, one, 3, seed=3, greedy=True))
    assert seen == list(zip(*begun[0], strict=True))


class DyingOnce(gym.Env):
    """Its only world dies in the second step of its first episode; whole episodes last 4 steps."""

    observation_space = gym.spaces.Box(0, 9, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)
    deaths = 0

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        died = self.t == 2 and not DyingOnce.deaths
        DyingOnce.deaths += died
        info = {"lost": 1} if died else {}
        return np.full(1, self.t, np.float32), 1.0, self.t == 4, died, info

    def render(self):
        return np.zeros((48, 64, 3), np.uint8)


def test_lost_episodes_are_told_in_table_json_and_film(tmp_path, monkeypatch, capsys):
    from ct_rl import evaluate
    from ct_rl.config_file import parse
    from ct_rl.trained import Trained

    envs.register("dying_once", DyingOnce)
    env = envs.make("dying_once", render_mode="rgb_array")
    net = ActorCritic(env.observation_space, env.action_space, memory="gru", width=4,
                      memory_options={"d_model": 4, "hidden": 4}).eval()  # fmt: skip
    config = parse("env: {name: dying_once}", "test")
    agent = Trained(str(tmp_path), config, 1, "step_1", "gru", tmp_path, lambda *_: net)
    monkeypatch.setattr(DyingOnce, "deaths", 0)
    given = evaluate.Arguments(run=str(tmp_path), episodes=2, actions="greedy")
    assert evaluate._evaluate(given, agent) == 0
    out = capsys.readouterr().out
    assert (
        re.search(r"lost, their worlds died\W+1\W", out) and "because their worlds died: 1;" in out
    )
    report = json.loads((tmp_path / "evaluations" / "step_1_seed0.json").read_text())
    assert report["scores"]["greedy"]["lost"] == 1 and report["scores"]["greedy"]["mean"] == 4
    assert [episode.get("lost") for episode in report["episodes"]["greedy"]].count(1) == 1
    monkeypatch.setattr(DyingOnce, "deaths", 0)
    moments = list(film(net, env, 2, seed=1, greedy=True))
    assert [moment.action for moment in moments if moment.last] == ["world lost", "end"]


def test_an_evaluation_never_overwrites_another_and_is_written_before_it_can_be_lost(tmp_path):
    report = {"env": "x", "scores": {"greedy": {"mean": 1.0, "best": float("inf")}}}
    first = new_evaluation(tmp_path, "step_1_seed0", report)
    assert new_evaluation(tmp_path, "step_1_seed0", report).name == "step_1_seed0_2.json"
    assert read_evaluation(first).scores == {"greedy": {"mean": 1.0, "best": None}}
    blocked = tmp_path / "run"
    blocked.mkdir()
    (blocked / "evaluations").write_text("")
    with pytest.raises(UserError, match="is a file: move it away"):
        new_evaluation(blocked, "x", report)


def write_one(home, mean):
    report = {"env": "x", "scores": {"greedy": {"mean": float(mean)}}}
    return new_evaluation(home, "step_1_seed0", report)


@pytest.mark.parametrize("links", [True, False])
def test_evaluations_at_once_have_a_file_each_and_one_in_the_making_is_none(
    tmp_path, monkeypatch, links
):
    if not links:  # as on file systems that have no hard links

        def refuse(*_):
            raise PermissionError(errno.EPERM, "no links here")

        monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("os.fsync", lambda _: None)  # so that they meet
    monkeypatch.setattr("os.getpid", lambda: 7)  # as processes in containers may have it
    means = range(300)

    with multiprocessing.get_context("fork").Pool(4) as pool:
        paths = pool.starmap(write_one, [(tmp_path, mean) for mean in means], chunksize=1)
    (tmp_path / "evaluations" / ".partial-1-x.json").write_text("")
    assert sorted(paths) == evaluation_files(tmp_path) and len(set(paths)) == len(means)
    assert [read_evaluation(path).scores["greedy"]["mean"] for path in paths] == list(means)


@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_as_long_as_may_be_lose_nothing(tmp_path, letter):
    name = letter * (250 // len(letter.encode()))
    agent = Trained(
        str(tmp_path / name), TrainConfig(), 0, "step_000000000000", "lstm", None, lambda *_: None
    )
    home, begins = agent.output(str(tmp_path))
    assert new_evaluation(home, f"{begins}_seed0_deepmind_lab", {}).exists()
    assert begins.startswith(letter * 60) and begins.endswith("_step_000000000000")

    write_new(tmp_path / name, "whole", "--out")
    assert (tmp_path / name).read_text() == "whole"
    picture = np.zeros((48, 64, 3), np.uint8)
    moment = Moment(picture, 0, 0, 0.0, 0.0, "end", last=True)
    assert video.write(tmp_path / f"{name}.mp4", [moment], 10) == 7
    with pytest.raises(UserError, match="file name too long"):
        require_writable(tmp_path / (letter * 256), "--out")


def test_what_an_evaluation_was_played_with_beside_the_level_is_named():
    config = TrainConfig()
    config.env.name, config.env.engine = "dmlab_rooms_watermaze", "deepmind_lab"
    config.env.options = {"dataset_path": "/here", "height": 84, "seconds": 9.0, "stagger": True}
    config.eval_env.options = {"mixer_seed": [1, 2]}

    def ask(**more):
        return played_otherwise(Evaluation("dmlab_rooms_watermaze", {}, **more), config)

    for as_trained, more, says in (
        (False, {}, []),
        (False, {"seconds": 2}, ["'seconds' = 2"]),
        (True, {}, ["'seconds' = 9.0", "'stagger' = False", "no 'mixer_seed'"]),
    ):
        options = evaluation_options(config, as_trained, more)
        assert ask(env_options=json.loads(json.dumps(options))) == says
    level = {"dataset_path": "/there", "height": 84, "mixer_seed": [1, 2]}
    assert ask(env_options=level, engine="deepmind_lab", max_steps=MAX_STEPS) == []
    assert ask(env_options=level, engine="embedded", max_steps=5) == [
        "--max-steps 5",
        "--engine 'embedded'",
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is not JSON"),
        ("[]", "expected `name: value` lines"),
        ('{"env": "x", "scores": {"greedy": {"mean": Infinity}}}', "is not JSON"),
        ('{"env": "x", "scores": {"greedy": {"mean": 1e999}}}', "is not JSON"),
        ('{"env": "x", "scores": {"greedy": {"mean": true}}}', "expected a number, not True"),
        ('{"env": "x", "scores": {"greedy": {"mean": "3"}}}', "expected a number, not '3'"),
        ('{"env": "x", "scores": {"greedy": {}}}', "no mean return"),
        ('{"env": 3, "scores": {}}', "env: expected a text, not 3"),
        ('{"env": "x", "steps": -1, "scores": {}}', "steps: -1 is too small"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_evaluation_is_one_line(tmp_path, content, says):
    path = tmp_path / "e.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_evaluation(path)
    assert says in str(error.value) and len(str(error.value)) < 300
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_evaluation(tmp_path)


def test_scores_of_one_episode_have_no_standard_error():
    score = score_episodes([{"return": 4.0, "length": 2}], EnvFacts())
    assert score["standard_error"] is None and score["human_normalised"] is None


def test_human_normalised_is_0_for_random_and_100_for_a_human():
    assert human_normalised(0.312, (0.312, 65.9)) == 0
    assert human_normalised(65.9, (0.312, 65.9)) == pytest.approx(100)


@pytest.mark.parametrize("size", [(8, 400), (700, 40), (3, 5000)])
def test_a_long_picture_is_not_scaled_beyond_what_an_encoder_takes(size):
    height, width = video.enlarge(np.zeros((*size, 3), np.uint8)).shape[:2]
    assert max(height, width) <= max(video.LONGEST, *size) and height >= size[0] // 2 * 2


@pytest.mark.parametrize("size", [(72, 96), (84, 84), (500, 700), (33, 47)])
def test_any_picture_becomes_large_even_and_keeps_its_shape(size):
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    large = video.enlarge(picture)
    height, width = large.shape[:2]
    assert height >= 480 and width >= 640 and height % 2 == width % 2 == 0
    assert abs(height / width - size[0] / size[1]) < 0.01
    if height % size[0] == 0 and width % size[1] == 0:
        small = cv2.resize(large, size[::-1], interpolation=cv2.INTER_NEAREST)
        assert (small == picture).all()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((20, 30, 4), np.uint8),
        np.zeros((20, 30), np.uint8),
        np.zeros((20, 30, 1), np.int64),
        np.zeros((3, 20, 30), np.uint8),
        np.full((20, 30, 3), 0.5),
        np.where(np.arange(90).reshape(1, 30, 3) % 2, np.nan, np.zeros((20, 30, 3))),
        [[[0, 0, 0]] * 30] * 20,
    ],
)
def test_odd_pictures_are_converted(picture):
    made = video.as_rgb(picture)
    assert made.shape == (20, 30, 3) and made.dtype == np.uint8
    assert made.max() == (127 if np.nanmax(picture) == 0.5 else 0)


@pytest.mark.parametrize("kind", [np.int16, np.int64, np.uint16])
def test_a_dark_picture_of_whole_numbers_stays_dark(kind):
    assert video.as_rgb(np.ones((20, 30, 3), kind)).max() == 1
    assert video.as_rgb(np.ones((20, 30), bool)).max() == 255


@pytest.mark.parametrize(
    "picture",
    [None, "text", np.zeros((5, 5, 7)), np.zeros(4), [], np.zeros((0, 4, 3)), [[1], [2, 3]]],
)
def test_what_is_no_picture_is_said_in_a_line(picture):
    with pytest.raises(ValueError, match="the environment drew"):
        video.as_rgb(picture)


def test_the_overlay_tells_return_reward_step_and_action():
    base = Moment(np.zeros((480, 640, 3), np.uint8), 1, 5, 3.0, 0.0, "forward")
    plain = video.compose(base)
    for change in ({"total": 4.0}, {"reward": 1.0}, {"step": 6}, {"action": "fire"}):
        assert (video.compose(Moment(**{**base.__dict__, **change})) != plain).any()


def test_an_environment_that_cannot_draw_is_one_line_or_shows_what_it_observes():
    env, frame = Shown(None), np.zeros((48, 64, 3), np.uint8)
    env.render_mode, env.render = "rgb_array", super(Shown, env).render
    with pytest.raises(RunFailed, match=r"has no render\(\): leave --video out"):
        evaluation._picture(env, frame, watch=False)
    assert np.asarray(evaluation._picture(env, frame, watch=True)).ndim == 3
