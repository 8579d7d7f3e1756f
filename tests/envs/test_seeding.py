"""Seeds: no two worlds, runners, lives or runs share one, and a vector draws its worlds' from one number."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv

import envs
from envs.adapt import adapt_vec
from envs.seeding import world_seeds
from tests.envs.test_adapt import Echo


def test_no_two_worlds_runners_lives_or_runs_share_a_seed():
    places = itertools.product(range(10), range(8), range(3))
    drawn = [
        seed
        for run, runner, life in places
        for seed in world_seeds(run, 64, runner=runner, incarnation=life)
    ]
    # Of 2e9 seeds 15,360 drawn ones are distinct but for chance: 0.06 pairs are expected.
    assert len(drawn) == 15_360 and len(drawn) - len(set(drawn)) <= 2
    for run, life in itertools.product(range(10), range(3)):
        of_a_run = [
            seed
            for runner in range(8)
            for seed in world_seeds(run, 64, runner=runner, incarnation=life)
        ]
        assert len(set(of_a_run)) == 512


def test_neighbouring_runs_share_no_world():
    for seed in (0, 1, 41, 2**31, 2**40):
        assert not set(world_seeds(seed, 64)) & set(world_seeds(seed + 1, 64))


def test_a_worlds_seed_does_not_depend_on_how_many_there_are():
    assert world_seeds(7, 3) == world_seeds(7, 64)[:3]
    assert all(0 <= seed < 2**31 for seed in world_seeds(7, 64, evaluation=True))
    training = {seed for run in range(20) for seed in world_seeds(run, 64)}
    assert not training & set(world_seeds(0, 64, evaluation=True))


@pytest.mark.parametrize("place", [{"seed": -1}, {"runner": -1}, {"incarnation": -2}])
def test_negative_numbers_are_refused_in_a_line(place):
    ((name, value),) = place.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected 0 or more"):
        world_seeds(**{"seed": 0, "count": 1, **place})


class Remembers(Echo):
    seeds: list = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        Remembers.seeds.append(seed)
        return super().reset(seed=seed)


def test_a_vector_draws_its_worlds_seeds_from_one_number():
    vector = adapt_vec(SyncVectorEnv([lambda: Remembers(spaces.Discrete(2))] * 4))
    for given, expected in ((3, world_seeds(3, 4)), (np.int64(3), world_seeds(3, 4)),
                            ([8, 9, 1, 2], [8, 9, 1, 2]), (None, [None] * 4)):  # fmt: skip
        Remembers.seeds.clear()
        vector.reset(seed=given)
        assert Remembers.seeds == expected


def test_a_single_room_is_world_0_of_several():
    one, several = envs.make("dmlab_rooms_select"), envs.make_vec("dmlab_rooms_select", 3)
    for seed in (0, 5):
        shown, frames = one.reset(seed=seed)[0], several.reset(seed=seed)[0]
        assert (shown["frame"] == frames["frame"][0]).all()
        assert not (frames["frame"][0] == frames["frame"][1]).all() or seed == 0
    one.close()
    several.close()


def test_a_world_replays_alone_what_it_played_among_others():
    seeds = world_seeds(4, 3)
    several = envs.make_vec("CartPole-v1", 3)
    shown, _ = several.reset(seed=4)
    for i, seed in enumerate(seeds):
        alone = envs.make("CartPole-v1").reset(seed=seed)[0]
        assert np.array_equal(alone["vector"], shown["vector"][i])
