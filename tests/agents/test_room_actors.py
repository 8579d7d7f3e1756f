"""The room task inside Ray's actors, from a pickled creator."""

from functools import partial

import numpy as np
import ray

import envs

creator = partial(envs.make_vec, "dmlab_rooms_select", 3, engine="embedded")


def frames_of(create):
    env = create()
    env.reset(seed=4)
    frames = [env.step(np.array([0, 6, 4]))[0]["frame"] for _ in range(20)]
    env.close()
    return np.stack(frames)


def test_actors_draw_the_same_frames_as_this_process(cluster):
    here = frames_of(creator)
    there = ray.get([ray.remote(frames_of).remote(creator) for _ in range(2)])
    assert all((frames == here).all() for frames in there)
