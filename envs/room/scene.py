"""Draws N room worlds at once with Panda3D: one offscreen buffer, one tile of it for each world.

Frames depend on nothing but a world's own state: not on its neighbours, the batch or the process.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from panda3d import core as p3

from envs.room import layout as plan
from envs.room import textures
from envs.room.buffers import Tiles, open_pipe
from envs.room.dynamics import N_STYLES, RoomWorlds
from envs.room.models import AGENT, DEPTH, TOP, NodeMaker

SPIN_FRAMES = 240  # an object turns once in four seconds
VIEWS = ("agent", "top")
_SKY, _TABLE = (0.42, 0.66, 0.95), (0.10, 0.11, 0.14)  # behind the agent's view and the top view
_FINE = 2  # pictures are drawn this much larger and then shrunk, which smooths their edges


class RoomScene:
    """The picture side of `RoomWorlds`: draws every world as its state stands.

    Args:
        worlds: what to draw.
        height, width: of a frame, in pixels.
        renderer: "cpu" or "gpu", as `buffers.choose_renderer` chose it.
        depth: whether `depths()` is wanted.
    """

    def __init__(
        self,
        worlds: RoomWorlds,
        height: int,
        width: int,
        renderer: str = "cpu",
        depth: bool = False,
    ) -> None:
        self.worlds = worlds
        self._pipe = open_pipe(renderer)
        self._engine = p3.GraphicsEngine(self._pipe)
        settings, maker = worlds.settings, NodeMaker()
        self._models = [
            maker.item(k, settings.object_scale) for k in textures.most_different_first()
        ]
        rooms = [maker.room(worlds.layout, room) for room in (0, 1)]
        self._door, self._marker = maker.door(worlds.layout), maker.marker()
        self._walls = [maker.texture(textures.wall_texture(k)) for k in range(N_STYLES)]
        self._floors = [maker.texture(textures.floor_texture(k)) for k in range(N_STYLES)]
        self._worlds = [_World(i, rooms) for i in range(worlds.n)]
        self._tiles = Tiles(self._engine, self._pipe, worlds.n, height, width)
        self._depth_tiles = None
        if depth:
            self._depth_tiles = Tiles(self._engine, self._pipe, worlds.n, height, width)
        lens, as_depth = _lens(width / height), maker.depth_state(1024 * worlds.layout.scale)
        for i, world in enumerate(self._worlds):
            self._tiles.look(i, _camera(world.eye, lens, AGENT), _SKY)
            if self._depth_tiles is not None:
                camera = _camera(world.eye, lens, DEPTH)
                camera.node().setInitialState(as_depth)
                self._depth_tiles.look(i, camera, (1.0, 1.0, 1.0))
        self._view: _View | None = None

    def frames(self) -> np.ndarray:
        """Every world's frame, uint8 [N, height, width, 3], a fresh array."""
        self._place()
        self._engine.renderFrame()
        return self._tiles.colours()

    def depths(self) -> np.ndarray:
        """Distances along the view in 1/256 of 1,024 units (times room_scale) as drawn by the last `frames()`.

        uint8 [N, height, width, 1], a fresh array; 255 is the sky.
        """
        assert self._depth_tiles is not None
        return self._depth_tiles.greens()

    def picture(self, i: int, height: int, width: int, view: str = "agent") -> np.ndarray:
        """World i at any size, uint8 [height, width, 3]; raises ValueError for a view not in `VIEWS`."""
        if view not in VIEWS:
            raise ValueError(f"unknown view {view!r}: choose one of {', '.join(VIEWS)}")
        self._place()
        if self._view is None or self._view.size != (height, width):
            if self._view is not None:
                self._engine.removeWindow(self._view.tiles.window)
            self._view = _View(self._engine, self._pipe, height, width)
        self._aim(self._view, i, view)
        others = [self._tiles, *([self._depth_tiles] if self._depth_tiles else [])]
        for tiles in others:
            tiles.window.setActive(False)
        self._view.tiles.window.setActive(True)
        self._engine.renderFrame()
        self._view.tiles.window.setActive(False)
        for tiles in others:
            tiles.window.setActive(True)
        self._marker.detachNode()
        drawn = self._view.tiles.colours()[0]
        return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)

    def close(self) -> None:
        """Frees the buffers."""
        self._engine.removeAllWindows()

    def _place(self) -> None:
        """Put into the scene what the worlds' state says."""
        worlds = self.worlds
        for i in worlds.changed:
            self._update(i)
        worlds.changed.clear()
        heading = (worlds.yaw / 1e4 - 90).tolist()
        pitch = (worlds.pitch / 1e4).tolist()
        spins = (worlds.frame % SPIN_FRAMES).tolist()
        heights = (worlds.z + plan.EYE).tolist()
        xs, ys = worlds.x.tolist(), worlds.y.tolist()
        for scene, x, y, z, h, p, spin in zip(
            self._worlds, xs, ys, heights, heading, pitch, spins, strict=True
        ):
            scene.eye.setPosHpr(x, y, z, h, p, 0)
            for node in scene.slots[: scene.shown]:
                node.setH(spin * (360 / SPIN_FRAMES))

    def _update(self, i: int) -> None:
        """Give world i the room, objects, door and textures that it has now."""
        worlds, scene = self.worlds, self._worlds[i]
        room = int(worlds.room[i])
        shown: list[tuple[int, float, float, float]] = []
        if room == 0:
            x, y = worlds.layout.example_stands[worlds.example_side[i]]
            shown.append((int(worlds.match[i]), x, y, plan.OBJECT_Z))
        else:
            stands, right = worlds.layout.choice_stands, int(worlds.match_side[i])
            if not worlds.finished[i]:
                shown.append((int(worlds.match[i]), *stands[right], plan.OBJECT_Z))
                shown.append((int(worlds.other[i]), *stands[1 - right], plan.OBJECT_Z))
            if worlds.settings.distractor:
                place = worlds.layout.distractor
                shown.append((int(worlds.distractor[i]), *place, plan.DISTRACTOR_Z))
        scene.enter(room)
        scene.show([(self._models[model], x, y, z) for model, x, y, z in shown])
        scene.extra.node().removeAllChildren()
        if room == 1 and worlds.door[i] > 0:
            scene.extra.node().addChild(self._door.node())
        if worlds.settings.textures == "random":
            scene.dress(self._walls[worlds.wall_style[i]], self._floors[worlds.floor_style[i]])

    def _aim(self, seen: _View, i: int, view: str) -> None:
        """Put the picture's camera into world i."""
        scene, worlds, aspect = self._worlds[i], self.worlds, seen.size[1] / seen.size[0]
        seen.camera.reparentTo(scene.root)
        seen.camera.node().setCameraMask(AGENT if view == "agent" else TOP)
        seen.region.setClearColor((*(_SKY if view == "agent" else _TABLE), 1.0))
        if view == "agent":
            seen.camera.setTransform(scene.eye.getTransform())
            seen.camera.node().setLens(_lens(aspect))
            return
        low_x, high_x, low_y, high_y = worlds.bounds[i]
        # Upwards in the picture is ahead of the spawn.
        seen.camera.setPosHpr((low_x + high_x) / 2, (low_y + high_y) / 2, 900, -90, -90, 0)
        lens = p3.OrthographicLens()
        across, along = high_y - low_y + 30, high_x - low_x + 30
        span = 1.12 * max(across, along * aspect)
        lens.setFilmSize(span, span / aspect)
        lens.setNearFar(10, 2000)
        seen.camera.node().setLens(lens)
        self._marker.reparentTo(scene.root)
        self._marker.setPosHpr(worlds.x[i], worlds.y[i], 60, worlds.yaw[i] / 1e4, 0, 0)


class _World:
    """Nodes of one world: the eye, both rooms, up to three objects, the door."""

    def __init__(self, i: int, rooms: list[list[Any]]) -> None:
        self.root = p3.NodePath(f"world {i}")
        self.eye = self.root.attachNewNode("eye")
        self.parts = []
        for parts in rooms:
            node = p3.NodePath("room")
            for part in parts:
                holder = node.attachNewNode(part.getName())
                part.instanceTo(holder)
            self.parts.append(node)
        self.room = -1
        self.slots = [self.root.attachNewNode(f"slot {k}") for k in range(3)]
        self.extra = self.root.attachNewNode("extra")
        self.shown = 0

    def enter(self, room: int) -> None:
        if room != self.room:
            if self.room >= 0:
                self.parts[self.room].detachNode()
            self.parts[room].reparentTo(self.root)
            self.room = room

    def show(self, objects: list[tuple[Any, float, float, float]]) -> None:
        for slot in self.slots:
            slot.node().removeAllChildren()
        for slot, (model, x, y, z) in zip(self.slots, objects, strict=False):
            slot.node().addChild(model.node())
            slot.setPos(x, y, z)
        self.shown = len(objects)

    def dress(self, wall: p3.Texture, floor: p3.Texture) -> None:
        for node in self.parts:
            node.find("walls").setTexture(wall, 1)
            node.find("floor").setTexture(floor, 1)


class _View:
    """A buffer for one picture of any size, and the camera that fills it."""

    def __init__(self, engine: Any, pipe: Any, height: int, width: int) -> None:
        self.size = height, width
        self.tiles = Tiles(engine, pipe, 1, height * _FINE, width * _FINE)
        self.camera = _camera(p3.NodePath("picture"), _lens(width / height), AGENT)
        self.region = self.tiles.look(0, self.camera, _SKY)


def _lens(aspect: float) -> p3.PerspectiveLens:
    """The level's view: 90 degrees wide."""
    lens = p3.PerspectiveLens()
    lens.setFov(90, 2 * math.degrees(math.atan(1 / aspect)))
    lens.setNearFar(3, 3000)
    return lens


def _camera(root: p3.NodePath, lens: p3.Lens, mask: p3.BitMask32) -> p3.NodePath:
    camera = p3.Camera("camera")
    camera.setLens(lens)
    camera.setCameraMask(mask)
    return root.attachNewNode(camera)
