"""DeepMind Lab's adapter against the strict double: worlds, settings, and the environment of N of them."""

import pickle
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

import envs
from envs.actions import action_vectors
from envs.dmlab import make, process
from envs.dmlab.levels import DMLAB30, FIXED_LENGTH, TEST_ONLY, TRAINING_VARIANTS
from envs.dmlab.settings import LabSettings
from envs.dmlab.vector import LabVectorEnv
from envs.dmlab.world import LabWorld
from envs.seeding import world_seeds
from tests.envs.lab import FIRE, FORWARD, LEFT, ROOMS, one, play

# One world.


@pytest.fixture
def world(lab):
    world = LabWorld(LabSettings(ROOMS))
    yield world
    world.close()


def test_a_world_plays_the_same_from_its_first_episode_on(world, lab):
    def frames():
        seen = [world.reset(0, 11)]
        seen += [world.step(FORWARD)[0] for _ in range(5)]
        return [s.frame.tobytes() for s in seen]

    first = frames()  # the engine's own first reset was thrown away
    assert first == frames()
    other = LabWorld(LabSettings(ROOMS))
    assert other.reset(0, 11).frame.tobytes() == first[0]
    assert other.reset(1, 11).frame.tobytes() != first[0]
    other.close()


def test_any_whole_number_is_a_seed(world):
    for seed in (np.int64(3), -1, 2**40, np.uint32(2**32 - 1)):
        assert world.reset(np.int64(0), seed).frame.any()


def test_calls_out_of_order_are_errors_and_closing_never_crashes(world):
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        world.step(0)
    world.reset(0, 1)
    while not world.step(FIRE)[2]:
        pass
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        world.step(0)
    for _ in range(3):
        world.close()
    for call in (lambda: world.reset(0, 1), lambda: world.step(0)):
        with pytest.raises(RuntimeError):
            call()


def test_every_action_reaches_the_engine_as_its_seven_numbers(lab, monkeypatch):
    for name in ("impala", "extended"):
        taken = []
        world = LabWorld(LabSettings(ROOMS, actions=name, action_repeat=3))
        world.reset(0, 1)
        step = world._lab.step
        world._lab.step = lambda action, num_steps, step=step, taken=taken: (
            taken.append((action.copy(), num_steps)) or step(action, num_steps=num_steps)
        )
        for i in range(len(action_vectors(name))):
            world.step(i)
        assert (np.array([action for action, _ in taken]) == action_vectors(name)).all()
        assert {repeat for _, repeat in taken} == {3}
        world.close()
    assert len(action_vectors("impala")) == 9 and len(action_vectors("extended")) == 15


def test_a_level_without_debug_observations_runs_without_a_position(lab, monkeypatch):
    monkeypatch.setattr(lab, "FAULTS", {"no_debug"})
    world = LabWorld(LabSettings(ROOMS))
    seen = world.reset(0, 1)
    assert seen.frame.any() and np.isnan(seen.position).all() and np.isnan(seen.yaw)
    world.close()


@pytest.mark.parametrize("fault", ["reversed", "small"])
def test_an_engine_of_another_shape_is_refused(lab, monkeypatch, fault):
    monkeypatch.setattr(lab, "FAULTS", {fault})
    with pytest.raises((ValueError, RuntimeError), match=r"actions are|frame is"):
        LabWorld(LabSettings(ROOMS))


# Settings.


def test_the_engine_is_configured_with_strings_only(tmp_path):
    settings = LabSettings(
        "psychlab_visual_search", height=84, width=84, seconds=30, holdout=True,
        dataset_path=str(tmp_path), config={"logToStdErr": True, "gpuDeviceIndex": 0, "x": 2.0},
    )  # fmt: skip
    assert settings.engine_config() == {
        "width": "84", "height": "84", "episodeLengthSeconds": "30", "allowHoldOutLevels": "true",
        "mixerSeed": str(0x600D5EED), "datasetPath": str(tmp_path),
        "logToStdErr": "true", "gpuDeviceIndex": "0", "x": "2",
    }  # fmt: skip
    assert LabSettings(ROOMS).engine_config() == {"width": "96", "height": "72"}
    assert LabSettings(ROOMS, mixer_seed=5).engine_config()["mixerSeed"] == "5"


BAD = {
    "height": (70, "height=70 is not a positive multiple of 4"),
    "width": (0, "width=0 is not a positive multiple of 4"),
    "action_repeat": (0, "action_repeat=0: expected 1 or more"),
    "words": (2.5, "words=2.5: expected a whole number"),
    "holdout": ("yes", "holdout='yes': expected true or false"),
    "depth": (1, "depth=1: expected true or false"),
    "level_cache": (3, "level_cache=3: expected a text"),
    "actions": ("all", "unknown actions 'all': choose one of impala, extended"),
    "seconds": (0.01, "seconds=0.01 is shorter than a step"),
    "mixer_seed": (-1, "mixer_seed=-1"),
    "episode_seeds": (0, "episode_seeds=0"),
    "renderer": ("fast", "unknown renderer 'fast'"),
    "dataset_path": ("/nowhere", "dataset_path='/nowhere' is no folder"),
    "stagger": (None, "stagger=None: expected true or false"),
    "restarts": (-1, "restarts=-1: expected 0 or more"),
    "config": ({"width": 96}, "config has 'width'"),
    "render_mode": ("human", "unknown render_mode 'human'"),
    "heigth": (72, "unknown setting 'heigth' of the deepmind_lab engine: did you mean 'height'?"),
    "spawn": ((0, 0), "unknown setting 'spawn' of the deepmind_lab engine"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_named_in_one_line_before_any_engine_starts(lab, monkeypatch, name):
    monkeypatch.setattr(process.subprocess, "Popen", None)
    value, says = BAD[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        LabVectorEnv(ROOMS, 1, **{name: value})
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["long", float("nan"), True])
def test_seconds_are_a_number(value):
    with pytest.raises(ValueError, match="expected a number"):
        LabSettings(ROOMS, seconds=value)


@pytest.mark.parametrize("key", ["levelDirectory", "appendCommand"])
def test_a_strangers_config_cannot_choose_other_code(key):
    with pytest.raises(ValueError, match="would run other code"):
        LabSettings(ROOMS, config={key: "x"})


@pytest.mark.parametrize("level", FIXED_LENGTH)
def test_a_length_is_refused_where_the_engine_would_ignore_it(level):
    with pytest.raises(ValueError) as caught:
        LabSettings(level, seconds=9)
    assert (
        str(caught.value)
        == f"seconds=9 does nothing in {level}, whose clock is always 60 s: leave it out"
    )
    assert LabSettings(level).frames == 3600


@pytest.mark.parametrize("level", TEST_ONLY)
def test_a_level_for_tests_is_played_as_a_hold_out_and_says_so(lab, capsys, level):
    make.say.cache_clear()
    env = envs.make_vec(f"dmlab_{level}", 1)
    assert env.reset(seed=1)[0]["frame"].any() and env.metadata["settings"]["holdout"] is True
    (note,) = env.metadata["notes"]
    assert note.startswith(
        f"{level} is for tests only: it is played with holdout=True, mixer seed 0x600d5eed"
    )
    env.close()
    envs.make_vec(f"dmlab_{level}", 1).close()
    assert capsys.readouterr().err == f"note: {note}\n"  # once
    asked = envs.make_vec(f"dmlab_{level}", 1, holdout=True)
    assert asked.metadata["notes"] == ()
    asked.close()
    with pytest.raises(ValueError, match=f"tests only: .*{level.removesuffix('_test')}_train"):
        envs.make_vec(f"dmlab_{level}", 1, holdout=False)


def test_other_levels_are_hold_outs_where_asked_only():
    assert (
        LabSettings(ROOMS).holdout is False and LabSettings(TRAINING_VARIANTS[0]).holdout is False
    )
    assert "allowHoldOutLevels" not in LabSettings(ROOMS).engine_config()


# The environment.


def test_the_single_environment_passes_gymnasiums_checker(lab):
    env = envs.make("dmlab_language_select_located_object", seconds=1)
    check_env(env, skip_render_check=True)
    env.close()


def test_creators_travel_between_processes(lab):
    creator = pickle.loads(pickle.dumps(partial(envs.make, f"dmlab_{ROOMS}", seconds=1)))
    env = creator()
    env.reset(seed=1)
    env.close()


def test_the_same_seed_is_the_same_episode_in_any_batch_and_at_any_time(open_env):
    rng = np.random.default_rng(0)
    actions = rng.integers(9, size=(70, 3))  # beyond the end of an episode of 30 steps
    three, alone = open_env(num_envs=3, seconds=2), open_env(num_envs=1, seconds=2)
    together = play(three, actions, seed=40)
    seeds = world_seeds(40, 3)
    for i in range(3):
        assert one(play(alone, actions[:, i : i + 1], seed=[seeds[i]]), 0) == one(together, i)
    assert one(play(alone, actions[:, :1], seed=40), 0) == one(together, 0)
    assert [one(play(three, actions, seed=[41, 40, 40]), i) for i in range(2)] == [
        one(play(three, actions[:, [0, 1, 0]], seed=[41, 40, 40]), i) for i in range(2)
    ]
    assert one(together, 0) != one(together, 1)


def test_episodes_differ_and_a_reset_without_seed_goes_on(open_env):
    env = open_env(seconds=1)
    frames = [env.reset(seed=9)[0]["frame"].tobytes()]
    frames += [env.reset()[0]["frame"].tobytes() for _ in range(3)]
    assert len(set(frames)) == 4
    assert env.reset(seed=9)[0]["frame"].tobytes() == frames[0]
    assert env.reset()[0]["frame"].tobytes() == frames[1]


def test_worlds_begin_together(open_env):
    env = open_env(num_envs=2, seconds=1)
    env.reset(seed=1)
    with pytest.raises(ValueError, match="begin together"):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(options={"reset_mask": np.array([True, True])})


def test_an_episode_ends_with_the_last_frame_and_the_next_step_begins_another(open_env):
    env = open_env(num_envs=2, seconds=1)
    obs, info = env.reset(seed=1)
    for _ in range(15):
        before = obs["frame"]
        assert not env._ended.any()
        obs, reward, terminated, truncated, info = env.step(np.array([FORWARD, LEFT]))
        assert (obs["last_action"] == [FORWARD, LEFT]).all()
        assert (obs["last_reward"][:, 0] == reward).all()
    assert terminated.all() and not truncated.any()
    assert (obs["frame"] == before).all() and info["teleports"][0] == 1
    obs, reward, terminated, truncated, info = env.step(np.array([FORWARD, LEFT]))
    assert not (terminated | truncated).any() and not reward.any()
    assert not obs["last_reward"].any() and not obs["last_action"].any()
    assert (obs["frame"] != before).any() and not info["teleports"].any()
    assert (info["position"] == [-232, -64]).all()
    *_, info = env.step(np.array([FORWARD, FORWARD]))
    assert (info["position"][:, 0] > -232).all()


def test_the_levels_own_length_is_12_seconds(open_env):
    env = open_env()
    env.reset(seed=1)
    over = [bool(env.step(np.array([FIRE]))[2][0]) for _ in range(180)]
    assert over == [False] * 179 + [True]


def test_stagger_truncates_first_episodes_at_different_times(open_env):
    env = open_env(num_envs=3, seconds=2, stagger=True)
    env.reset(seed=1)
    ends = []
    for t in range(1, 62):
        *_, terminated, truncated, _ = env.step(np.full(3, FIRE))
        ends += [(i, t, "cut") for i in np.flatnonzero(truncated)]
        ends += [(i, t, "end") for i in np.flatnonzero(terminated)]
    assert ends[:3] == [(2, 10, "cut"), (1, 20, "cut"), (0, 30, "end")]
    assert ends[3:] == [(2, 41, "end"), (1, 51, "end"), (0, 61, "end")]


def test_stagger_cuts_no_episode_but_the_first(open_env):
    env = open_env("explore_object_rewards_few", 2, seconds=2, stagger=True)
    env.reset(seed=1)
    env._left[:] = 100  # as where a level ends its first episode before the cut
    cut = [env.step(np.full(2, FIRE))[3].any() for _ in range(120)]
    assert not any(cut)


def test_the_room_tasks_counts_follow_its_rewards(open_env):
    env = open_env()
    _, info = env.reset(seed=2)
    total, rooms = 0.0, [1]
    way = [FORWARD] * 15 + [LEFT] * 3 + [FORWARD] * 14  # onto the pad, then to the left stand
    for action in (way * 6)[:179]:
        _, reward, *_, info = env.step(np.array([action]))
        total += reward[0]
        rooms.append(info["room"][0])
        assert (info["position"][0, 0] > 192) == (info["room"][0] == 2)
    counts = {key: int(info[key][0]) for key in ("teleports", "correct", "wrong", "trials")}
    assert counts["teleports"] + 10 * counts["correct"] - 10 * counts["wrong"] == total
    assert counts["trials"] == counts["correct"] + counts["wrong"] >= 2
    assert counts["teleports"] >= 3 and set(rooms) == {1, 2}


def test_language_levels_give_their_instruction_as_text_and_as_numbers(open_env):
    env = open_env("language_select_described_object", 2, words=8, vocabulary=50)
    obs, info = env.reset(seed=3)
    assert all(text.startswith("Pick up the ") for text in info["instruction"])
    assert obs["instruction"].shape == (2, 8) and obs in env.observation_space
    assert (obs["instruction"][:, :5] > 0).all() and not obs["instruction"][:, 5:].any()
    assert "instruction" not in open_env(ROOMS).single_observation_space.spaces
    assert "instruction" in open_env(ROOMS, instruction=True).single_observation_space.spaces


def test_depth_and_the_lone_frame_are_options(open_env):
    plain, deep = open_env(num_envs=2), open_env(num_envs=2, depth=True, render_mode="rgb_array")
    alone = open_env(num_envs=2, frame_only=True)
    obs, (seen, _), (frames, _) = plain.reset(seed=1)[0], deep.reset(seed=1), alone.reset(seed=1)
    assert seen in deep.observation_space and seen["depth"].shape == (2, 72, 96, 1)
    assert seen["depth"].any() and (seen["frame"] == obs["frame"]).all()
    assert frames in alone.observation_space and (frames == obs["frame"]).all()
    assert deep.render()[0].shape == (72, 96, 3)
    with pytest.raises(ValueError, match="frame_only"):
        open_env(frame_only=True, depth=True)
    for words in ({"words": 8}, {"vocabulary": 50}):
        with pytest.raises(ValueError, match=r"is of an instruction.*give instruction=True"):
            open_env(**words)
        assert open_env(instruction=True, **words).settings.with_instruction


def test_the_settings_stand_in_the_metadata_as_plain_values(open_env):
    settings = open_env(seconds=2, config={"logToStdErr": True}).metadata["settings"]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings
    assert settings["level"] == ROOMS and settings["seconds"] == 2 and settings["width"] == 96


def test_render_gives_the_frames_that_were_observed(open_env):
    env = open_env(num_envs=2, render_mode="rgb_array")
    obs, _ = env.reset(seed=1)
    assert all(
        (picture == frame).all() for picture, frame in zip(env.render(), obs["frame"], strict=True)
    )
    assert open_env().render() is None


@pytest.mark.parametrize(
    "actions",
    [np.array([0.0, 1.0]), np.array([0]), np.array([[0], [1]]), np.array([0, 9]), np.array([-1, 0]), [0.5, 1], "ab"],
)  # fmt: skip
def test_actions_of_wrong_shape_type_or_range_are_refused(open_env, actions):
    env = open_env(num_envs=2, seconds=1)
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        env.step(np.array([0, 0]))
    env.reset(seed=1)
    with pytest.raises(ValueError, match="expected"):
        env.step(actions)
    env.step(np.array([0, 8], np.int32))  # and it goes on


def test_seeds_must_be_one_or_as_many_as_worlds(open_env):
    with pytest.raises(ValueError, match="3 seeds for 2 worlds"):
        open_env(num_envs=2).reset(seed=[1, 2, 3])
    for seed in (-1, [3, -1]):
        with pytest.raises(ValueError, match="seed=-1: expected 0 or more"):
            open_env(num_envs=2).reset(seed=seed)


def test_neighbouring_seeds_share_no_world(open_env):
    env = open_env(num_envs=3, seconds=1)
    frames = [frame.tobytes() for seed in (1, 2, 3) for frame in env.reset(seed=seed)[0]["frame"]]
    assert len(set(frames)) == 9


def test_a_world_without_a_seed_of_its_own_goes_on(open_env):
    env = open_env(num_envs=2, seconds=1)
    first = env.reset(seed=[5, 6])[0]["frame"]
    second = env.reset(seed=[5, None])[0]["frame"]
    assert (second[0] == first[0]).all() and (second[1] != first[1]).any()


# Hold-out, mixer seed and the level cache.


def test_holdout_and_mixer_seed_give_other_episodes_under_the_same_seed(open_env):
    both = {"mixer_seed": 5, "holdout": True}
    frames = {
        open_env(ROOMS, **settings).reset(seed=1)[0]["frame"].tobytes()
        for settings in ({}, {"holdout": True}, {"mixer_seed": 5}, both)
    }
    assert len(frames) == 4


def test_maps_are_compiled_once_for_all_processes(open_env, tmp_path):
    level, cache = "explore_goal_locations_small", tmp_path / "cache" / "ct_rl" / "dmlab"
    first = open_env(level, 2, seconds=1)
    first.reset(seed=[5, 5])
    maps = {path.name: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(maps) == 2  # one of the thrown-away reset, one of the episode
    open_env(level, 1, seconds=1).reset(seed=[5])
    assert {path.name for path in cache.iterdir()} == set(maps)
    elsewhere = tmp_path / "maps"
    open_env(level, 1, level_cache=str(elsewhere)).reset(seed=5)
    assert len(list(elsewhere.iterdir())) == 2
    open_env(level, 1, level_cache=None).reset(seed=77)
    assert {path.name for path in cache.iterdir()} == set(maps)


def test_language_levels_keep_their_maps_too(open_env, tmp_path):
    env = open_env("language_execute_random_task", seconds=1)
    for seed in range(12):
        env.reset(seed=seed)
    maps = list((tmp_path / "cache" / "ct_rl" / "dmlab").iterdir())
    assert 1 < len(maps) <= 4 and DMLAB30["language_execute_random_task"].compiles_maps


def test_few_episode_seeds_bring_maps_back(open_env, tmp_path):
    env = open_env("explore_object_rewards_few", seconds=1, episode_seeds=2)
    env.reset(seed=1)
    for _ in range(12):
        env.reset()
    assert len(list((tmp_path / "cache" / "ct_rl" / "dmlab").iterdir())) <= 3


def test_it_is_a_gymnasium_vector_environment(open_env):
    env = open_env(num_envs=2, seconds=1)
    assert isinstance(env, gym.vector.VectorEnv)
    obs, _ = env.reset(seed=1)
    assert obs in env.observation_space and env.action_space.sample().shape == (2,)
