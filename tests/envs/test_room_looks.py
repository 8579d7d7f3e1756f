"""How the embedded room looks, against what was measured of the level's pictures at 72x96."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

import envs
from envs.room import models, scene, shapes
from envs.room import textures as drawn

make_vec = partial(envs.make_vec, "dmlab_rooms_select", engine="embedded", renderer="cpu")
WALL, FLOOR, SKY = (34, 114, 173), (183, 139, 45), (121, 199, 255)


def first_frame(**settings):
    return make_vec(1, **settings).reset(seed=6)[0]["frame"][0].astype(int)


def example_pixels(trial_frame, **settings):
    """Pixels that the example covers from the spawn, for each of the 36 objects."""
    env = make_vec(36, hud=False, **settings)
    env.reset(seed=0)
    worlds = env.worlds
    worlds.match[:], worlds.trial_frame[:] = np.arange(36), trial_frame
    worlds.changed.update(range(36))
    full = env.scene.frames().astype(int)
    for world in env.scene._worlds:
        world.show([])
    empty = env.scene.frames().astype(int)
    env.close()
    return (abs(full - empty).max(-1) > 12).sum((1, 2))


def test_wall_floor_and_sky_have_the_levels_colours():
    frame = first_frame(hud=False)
    for part, wanted in (
        (frame[32:44, 25:44], WALL),
        (frame[60:], FLOOR),
        (frame[:10, 30:66], SKY),
    ):
        assert abs(part.reshape(-1, 3).mean(0) - wanted).max() < 25


def test_objects_have_the_levels_size_on_average():
    sizes = [
        np.ptp(make().points, axis=0) * models._item_scale() for make in shapes.SHAPES.values()
    ]
    assert np.mean(sizes, axis=0)[:2].mean() == pytest.approx(25.5)
    assert np.mean(sizes, axis=0)[2] == pytest.approx(32)


@pytest.mark.parametrize("renderer", ["cpu", "gpu"])
def test_the_example_is_as_many_pixels_as_the_levels_at_first_and_when_full_grown(renderer):
    try:
        small, full = (example_pixels(frame, renderer=renderer) for frame in (0, 60))
    except envs.MissingDependencyError as error:
        pytest.skip(str(error))
    assert 2 <= small.min() <= small.max() <= 6
    assert full.mean() == pytest.approx(19, abs=1)
    assert example_pixels(0, renderer=renderer, growth=False).mean() > 2 * small.mean()


@pytest.mark.parametrize(("x", "y"), [(-232.0, -64.0), (-150.0, 30.0), (-20.0, 64.0)])
def test_a_small_frame_shows_objects_as_large_as_a_large_picture_does(x, y):
    """The software renderer's pixels at edges are taken back, at any distance."""
    env = make_vec(36, hud=False)
    env.reset(seed=0)
    worlds = env.worlds
    worlds.match[:], worlds.trial_frame[:], worlds.example_side[:] = np.arange(36), 60, 0
    worlds.x[:], worlds.y[:] = x, y
    worlds.changed.update(range(36))
    pictures = []
    for shown in (True, False):
        if not shown:
            for world in env.scene._worlds:
                world.show([])
        frames = env.scene.frames().astype(int)
        large = [env.scene.picture(i, 288, 384).astype(int) for i in range(0, 36, 3)]
        pictures.append((frames[::3], np.stack(large)))
    (frames, large), (no_frames, no_large) = pictures
    in_frames = (abs(frames - no_frames).max(-1) > 12).sum((1, 2))
    in_pictures = (abs(large - no_large).max(-1) > 12).sum((1, 2)) / 16
    env.close()
    assert in_frames.mean() == pytest.approx(in_pictures.mean(), rel=0.12)


def test_an_object_turns_once_in_128_frames_and_bobs_by_8_units():
    env = make_vec(1)
    env.reset(seed=0)
    heights, turns = [], []
    for frame in range(0, 160):
        env.worlds.trial_frame[0] = frame
        env.scene._place(None)
        slot = env.scene._worlds[0].slots[0]
        heights.append(slot.getTransform().getPos().z)
        turns.append(slot.getTransform().getHpr().x % 360)
    assert min(heights) == pytest.approx(31, abs=0.05)
    assert max(heights) == pytest.approx(39, abs=0.05)
    assert turns[128] == pytest.approx(turns[0]) and turns[64] == pytest.approx(180)


def test_the_display_covers_about_as_many_pixels_as_the_levels_and_can_be_left_out():
    covered = (first_frame() != first_frame(hud=False)).any(-1)
    assert abs(covered.sum() - 341) < 17
    assert not covered[12:60].any()


def test_the_seconds_left_and_the_score_are_shown_as_they_change():
    env = make_vec(1)
    clocks, points = [], []
    frame = env.reset(seed=0)[0]["frame"][0]
    for _ in range(31):
        clocks.append(frame[1:8, 86:95].copy())
        points.append(frame[1:8, 1:14].copy())
        frame = env.step(np.array([0]))[0]["frame"][0]
    second = [not (a == b).all() for a, b in pairwise(clocks)]
    assert np.flatnonzero(second).tolist() == [14, 29]  # a step is 1/15 s
    scored = [not (a == b).all() for a, b in pairwise(points)]
    assert 13 in np.flatnonzero(scored)


@pytest.mark.parametrize("size", [(4, 4), (16, 48), (84, 84), (240, 320)])
def test_the_display_fits_frames_of_other_sizes_or_is_left_out(size):
    height, width = size
    shown, plain = (
        first_frame(height=height, width=width),
        first_frame(height=height, width=width, hud=False),
    )
    assert (shown != plain).any() == (height >= 18)


def test_one_frame_is_dark_at_the_teleport():
    env = make_vec(1, action_repeat=1, hud=False)
    frames = [env.reset(seed=0)[0]["frame"][0]]
    frames += [env.step(np.array([0]))[0]["frame"][0] for _ in range(58)]
    dark = [k for k, frame in enumerate(frames) if (frame == scene.DARK).all()]
    assert dark == [56]


def test_depth_is_the_engines_byte():
    env = make_vec(2, depth=True, actions="extended")
    observation, info = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    near, far = scene.DEPTH_NEAR, scene.DEPTH_FAR
    for action in (0, 0, 0, 4):
        distance = 128 - info["position"][0, 0]  # of the wall ahead
        byte = 255 * far / (far - near) * (1 - near / distance)
        depth = observation["depth"][0, ..., 0]
        assert depth[30, 48] == pytest.approx(byte, abs=1.01)
        assert (depth[0] == 255).all()  # the sky
        rooms = depth[depth < 255]
        assert rooms.min() >= 241 and rooms.max() <= 254
        observation, _, _, _, info = env.step(np.array([action, 0]))
    plain = make_vec(2, actions="extended")
    plain.reset(seed=0)
    for action in (0, 0, 0, 4):
        frame = plain.step(np.array([action, 0]))[0]["frame"]
    assert (frame == observation["frame"]).all()


def views(x, trial_frame, **settings):
    """The 36 examples as seen from (x, -64) after so many frames of a trial: frames [36, 72, 96, 3]."""
    env = make_vec(36, hud=False, **settings)
    env.reset(seed=0)
    worlds = env.worlds
    worlds.match[:], worlds.example_side[:] = np.arange(36), 0
    worlds.x[:], worlds.trial_frame[:] = x, trial_frame
    worlds.changed.update(range(36))
    frames = env.scene.frames().astype(float)
    env.close()
    return frames.reshape(36, -1)


def told_apart(x, trial_frame, **settings):
    """Share of the objects whose colours within a frame are nearer to their own some frames later than to others'."""
    seen, later = (views(x, t, **settings) for t in (trial_frame, trial_frame + 3))
    gaps = ((later[:, None] - seen[None]) ** 2).sum(-1)
    return (gaps.argmin(1) == np.arange(36)).mean()


def test_objects_are_told_apart_when_grown_and_hardly_in_a_trials_first_frame():
    near, start, first = told_apart(-100, 90), told_apart(-232, 90), told_apart(-232, 0)
    assert near > 0.9 and start > 0.75
    assert first < near
    assert len({drawn.object_name(k) for k in range(36)}) == 36


@pytest.mark.parametrize(
    "settings",
    [{}, {"room_scale": 4.0}, {"height": 96, "width": 48}],
    ids=["level", "large", "tall"],
)
def test_the_part_of_the_sky_that_is_left_out_is_never_seen(settings, monkeypatch):
    n, rng = 48, np.random.default_rng(0)
    env = make_vec(n, hud=False, **settings)
    env.reset(seed=0)
    worlds = env.worlds
    for i in range(n // 2):
        worlds._arrive(i)
    worlds.dark[:] = False
    worlds.yaw[:] = rng.integers(3_600_000, size=n)
    low, high = worlds.bounds[:, :, 0]
    worlds.position[:] = low + (high - low) * rng.integers(0, 5, (2, n)) / 4  # also in the corners
    part = env.scene.frames()
    world = env.scene._worlds[0]
    counts = [sky.getGeom(0).getPrimitive(0).getNumPrimitives() for sky in world.skies[1]]
    assert max(counts[:-1]) < 0.8 * counts[-1]
    look = scene._World.look
    monkeypatch.setattr(scene._World, "look", lambda self, sector: look(self, scene.SECTORS))
    assert (env.scene.frames() == part).all()
    env.close()


@pytest.mark.parametrize("draw", [drawn.object_pattern, drawn.wall_texture, drawn.floor_texture])
def test_a_texture_is_drawn_once_and_nobody_paints_over_it(draw):
    image = draw(1)
    assert draw(1) is image and (draw(2) != image).any()
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0


def test_drawing_starts_no_threads():
    """OpenCV's would spin on every core between two frames."""
    count = (
        "import os, cv2, envs; cv2.setNumThreads(4)\n"
        "env = envs.make_vec('dmlab_rooms_select', 64, engine='embedded')\n"
        "before = len(os.listdir('/proc/self/task')); env.reset(seed=0)\n"
        "for _ in range(5): env.step([0] * 64)\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
        "image = __import__('numpy').zeros((64 * 72, 96, 4), 'uint8'); cv2.cvtColor(image, cv2.COLOR_BGRA2RGB)\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    started, would_have = map(int, done.stdout.split())
    assert started == 0 and would_have == 3
