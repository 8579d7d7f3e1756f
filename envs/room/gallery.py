"""Pictures of the room task for people: rooms.png and objects.png."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from envs.room import layout as plan
from envs.room import textures
from envs.room.env import RoomVectorEnv
from envs.room.scripted import ScriptedPlayer

_SIZE = (360, 480)  # of a picture, height and width
_SEED = 6
Titled = tuple[str, np.ndarray]


def trial(**settings: Any) -> list[dict[str, np.ndarray]]:
    """One trial of a player who chooses right: a picture, a frame and a view from above for each step."""
    env = RoomVectorEnv(1, renderer="cpu", **settings)
    player = ScriptedPlayer(env.action_names)
    observation, info = env.reset(seed=_SEED)
    steps: list[dict[str, np.ndarray]] = []
    while info["trial"][0] == 0 and len(steps) < 100:
        steps.append(
            {
                "picture": env.picture(0, size=_SIZE),
                "top": env.picture(0, size=_SIZE, view="top"),
                **{key: value[0] for key, value in observation.items()},
            }
        )
        observation, _, _, _, info = env.step(player.act(info))
    env.close()
    return steps


def rooms() -> list[list[Titled]]:
    """Rows of titled pictures: a trial as people and as the agent see it, from above, and the settings."""
    steps = trial(depth=True)
    moments = {
        "1: the example": 0,
        "2: towards the pad": 9,
        "3: two objects": 16,
        "4: the other": 24,
    }
    people = [(title, steps[k]["picture"]) for title, k in moments.items()]
    agent = [("as the agent sees it, 72x96", _enlarge(steps[k]["frame"])) for k in moments.values()]
    depth = np.repeat(_enlarge(steps[16]["depth"]), 3, 2)
    above = [
        ("room 1 from above", steps[6]["top"]),
        ("room 2 from above", steps[20]["top"]),
        (
            "depth=True, near is bright",
            np.clip((255 - depth.astype(int)) * 18, 0, 255).astype(np.uint8),
        ),
        ("delay=20", trial(delay=20)[16]["picture"]),
    ]
    others = [
        ("distractor=True", trial(distractor=True)[15]["picture"]),
        ("room_scale=2", _first(_SEED, room_scale=2.0)),
        *(("textures='random'", _first(seed, textures="random")) for seed in (1, 5)),
    ]
    return [people, agent, above, others]


def objects() -> list[list[Titled]]:
    """All 36 objects on a stand of room 2, one row for each variant."""
    env = RoomVectorEnv(36, renderer="cpu", hud=False)
    env.reset(seed=0)
    worlds = env.worlds
    stand_x, stand_y = worlds.layout.choice_stands[0]
    for i in range(36):
        worlds._arrive(i)
    order = textures.most_different_first()
    worlds.match[:] = [order.index(k) for k in range(36)]
    worlds.match_side[:] = 0
    worlds.x[:], worlds.y[:], worlds.yaw[:] = stand_x - 62, stand_y, 0
    worlds.z[:], worlds.dark[:] = plan.STANDING, False
    worlds.trial_frame[:] = 80  # turned a little, so that a cube shows two sides
    pictures = [env.picture(i, size=(240, 240)) for i in range(36)]
    env.close()
    return [
        [(textures.object_name(k), pictures[k]) for k in range(variant, 36, 3)]
        for variant in range(3)
    ]


def _first(seed: int, **settings: Any) -> np.ndarray:
    env = RoomVectorEnv(1, renderer="cpu", **settings)
    env.reset(seed=seed)
    picture = env.picture(0, size=_SIZE)
    env.close()
    return picture


def _enlarge(frame: np.ndarray) -> np.ndarray:
    height, width = _SIZE
    large = cv2.resize(frame, (width, height), interpolation=cv2.INTER_NEAREST)
    return large.reshape(height, width, -1)


def sheet(path: Path, rows: Sequence[Sequence[Titled]], inches: float) -> None:
    """Writes rows of titled pictures, each `inches` wide, as one PNG."""
    columns = max(map(len, rows))
    height, width = rows[0][0][1].shape[:2]
    tall = inches * height / width + 0.22
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(columns * inches, len(rows) * tall), squeeze=False
    )
    for row, row_axes in zip(rows, axes, strict=True):
        for (title, picture), axis in zip(row, row_axes, strict=True):
            axis.imshow(picture, interpolation="antialiased")
            axis.set_title(title, fontsize=8, pad=3)
            axis.axis("off")
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.22 / (len(rows) * tall), 0.02, 0.1)
    figure.savefig(path, dpi=110, facecolor="white")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draws both pictures."""
    parser = argparse.ArgumentParser("envs.room.gallery", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default="docs", help="where they go")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    sheet(folder / "rooms.png", rooms(), 2.9)
    sheet(folder / "objects.png", objects(), 1.0)
    print(f"wrote {folder / 'rooms.png'} and {folder / 'objects.png'}")


if __name__ == "__main__":
    main()
