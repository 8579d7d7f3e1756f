"""Evaluation of a short run: scores, JSON, video; and the parts it is made of."""

import json
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest

from ct_rl import video
from ct_rl.algorithm import lasting_options
from ct_rl.config import TrainConfig
from ct_rl.evaluation import Moment, evaluation_seed, play, summarise
from ct_rl.scores import EnvFacts, human_normalised
from tests.cli.conftest import command


@pytest.fixture(scope="module")
def evaluated(trained):
    run, *_ = trained
    status, out, err = command(
        "ct_rl.evaluate", run, "--episodes", 3, "--video", "--video-episodes", 1,
        "--env-option", "seconds=2",
    )  # fmt: skip
    assert status == 0, out + err
    (path,) = (run / "evaluations").glob("*.json")
    return run, out, json.loads(path.read_text())


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


class Counting:
    """Two worlds of 2 and 3 steps; every step pays 1, NEXT_STEP resets pay 100 to nobody."""

    num_envs = 2

    def __init__(self):
        self.lengths, self.t = np.array([2, 3]), np.zeros(2, int)
        self.ended = np.zeros(2, bool)

    def reset(self, seed):
        self.seed = seed
        return self.t.copy(), {}

    def step(self, actions):
        rewards = np.where(self.ended, 100.0, 1.0)
        self.t = np.where(self.ended, 0, self.t + 1)
        self.ended = self.t == self.lengths
        return self.t.copy(), rewards, self.ended.copy(), np.zeros(2, bool), {"wins": self.t}


class Following:
    """A network that checks that its memory is told of each new episode."""

    def __init__(self):
        from types import SimpleNamespace

        self.core = SimpleNamespace(cached=lambda state: state)

    def initial_state(self, rows):
        return None

    def act(self, obs, state, *, greedy, resets, generator):
        assert (resets == (obs == 0)).all()
        return np.zeros(2, int), state


def test_every_world_plays_its_share_and_reset_steps_do_not_count():
    env = Counting()
    played = play(Following(), env, 5, seed=3, greedy=False, metrics=("wins",))
    assert env.seed == evaluation_seed(3)
    assert sorted(episode["return"] for episode in played) == [2, 2, 2, 3, 3]
    assert all(episode["length"] == episode["return"] == episode["wins"] for episode in played)


def test_scores_of_one_episode_have_no_standard_error():
    score = summarise([{"return": 4.0, "length": 2}], EnvFacts())
    assert score["standard_error"] is None and score["human_normalised"] is None


def test_human_normalised_is_0_for_random_and_100_for_a_human():
    assert human_normalised(0.312, (0.312, 65.9)) == 0
    assert human_normalised(65.9, (0.312, 65.9)) == pytest.approx(100)


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


def test_the_overlay_tells_return_reward_step_and_action():
    base = Moment(np.zeros((480, 640, 3), np.uint8), 1, 5, 3.0, 0.0, "forward")
    plain = video.compose(base)
    for change in ({"total": 4.0}, {"reward": 1.0}, {"step": 6}, {"action": "fire"}):
        assert (video.compose(Moment(**{**base.__dict__, **change})) != plain).any()
