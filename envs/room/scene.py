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
from envs.room.dynamics import (
    N_STYLES,
    REWARD_MATCH,
    REWARD_OTHER,
    REWARD_PAD,
    TURN,
    RoomWorlds,
)
from envs.room.hud import Hud
from envs.room.models import AGENT, DEPTH, FLOOR, SECTORS, TOP, WALLS, NodeMaker
from envs.room.settings import FRAMES_PER_SECOND

SPIN_FRAMES = 128  # an object turns once in 2.05 s
BOB, BOB_FRAMES = 4.0, 78.5  # objects rise and sink by this much, once in so many frames
# At a trial's begin objects have this share of their size, and all of it after so many frames.
FIRST_SIZE, GROWTH_FRAMES = 0.42, 60
DARK = 40  # grey of the frame in which the pad takes the player
DEPTH_NEAR, DEPTH_FAR = 3.5, 3000.0  # what the engine's depth byte counts between
Triple = tuple[float, float, float]
VIEWS = ("agent", "top")
_SKY, _TABLE = (0.55, 0.82, 1.0), (0.10, 0.11, 0.14)  # behind the agent's view and the top view
# Pixels by which the software renderer draws everything too wide and too high: it fills both ends of every line. What
# is a few pixels large is drawn that much smaller, or it would be seen from further away than it can be in the level.
SPREAD = {"cpu": 1.0, "gpu": 0.0}
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
        self._extents = [_extent(model) for model in self._models]
        self._spread = SPREAD[renderer]
        rooms = [maker.room(worlds.layout, room) for room in (0, 1)]
        self._rims = [maker.rim(worlds.layout, room) for room in (0, 1)]
        skies = [maker.skies(worlds.layout, room, width / height) for room in (0, 1)]
        self._door, self._marker = maker.door(worlds.layout), maker.marker()
        self._walls = [maker.texture(textures.wall_texture(k)) for k in range(N_STYLES)]
        self._floors = [maker.texture(textures.floor_texture(k)) for k in range(N_STYLES)]
        own = settings.textures == "random"
        self._worlds = [_World(i, rooms, skies, own) for i in range(worlds.n)]
        self._tiles = Tiles(self._engine, self._pipe, worlds.n, height, width)
        self._hud = Hud(height, width) if settings.hud else None
        self._depth_tiles = None
        if depth:
            self._depth_tiles = Tiles(self._engine, self._pipe, worlds.n, height, width)
        lens, as_depth = (
            _lens(width / height),
            maker.depth_state(1024 * worlds.layout.scale, DEPTH_NEAR, DEPTH_FAR),
        )
        for i, world in enumerate(self._worlds):
            self._tiles.look(i, _camera(world.eye, lens, AGENT, world.root), _SKY)
            if self._depth_tiles is not None:
                camera = _camera(world.eye, lens, DEPTH, world.root)
                camera.node().setInitialState(as_depth)
                self._depth_tiles.look(i, camera, (1.0, 1.0, 1.0))
        self._view: _View | None = None
        worlds.changed.update(range(worlds.n))

    def frames(self) -> np.ndarray:
        """Every world's frame, uint8 [N, height, width, 3], a fresh array."""
        self._place(self._tiles.width)
        self._engine.renderFrame()
        return self._finished(self._tiles.colours(), self.worlds.dark, self._hud)

    def _finished(self, frames: np.ndarray, dark: np.ndarray, hud: Hud | None) -> np.ndarray:
        """What the engine draws over the rooms: the dark of the teleport, and the display."""
        if dark.any():
            frames[dark] = DARK
        if hud is not None:
            hud.draw(frames, *self._shown_numbers())
        return frames

    def _shown_numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds left and score, int [N] each."""
        worlds = self.worlds
        frames_left = np.maximum(worlds.settings.frames - worlds.frame, 0)
        score = (
            worlds.teleports * REWARD_PAD
            + worlds.correct * REWARD_OTHER
            + worlds.wrong * REWARD_MATCH
        )
        return -(-frames_left // FRAMES_PER_SECOND), score.astype(np.int64)

    def depths(self) -> np.ndarray:
        """The engine's depth byte as of the last `frames()`, uint8 [N, height, width, 1], a fresh array.

        For a distance z along the view it is 255 f / (f - n) (1 - n / z), rounded, with the planes n = `DEPTH_NEAR` and
        f = `DEPTH_FAR`: 242 to 254 in the level's rooms, 255 for the sky.
        """
        assert self._depth_tiles is not None
        return self._depth_tiles.greens()

    def picture(self, i: int, height: int, width: int, view: str = "agent") -> np.ndarray:
        """World i at any size, uint8 [height, width, 3]; raises ValueError for a view not in `VIEWS`."""
        if view not in VIEWS:
            raise ValueError(f"unknown view {view!r}: choose one of {', '.join(VIEWS)}")
        self._place(width * _FINE if view == "agent" else None)
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
        for node in (self._marker, *self._rims):
            node.detachNode()
        drawn = self._view.tiles.colours()[0]
        drawn = cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)
        if view == "agent" and self.worlds.dark[i]:
            drawn[:] = DARK
        if view == "agent" and self.worlds.settings.hud:
            left, score = self._shown_numbers()
            Hud(height, width).draw(drawn[None], left[i : i + 1], score[i : i + 1])
        return drawn

    def close(self) -> None:
        """Frees the buffers."""
        self._engine.removeAllWindows()

    def _place(self, width: int | None) -> None:
        """Put into the scene what the worlds' state says, for an agent's view `width` pixels wide or for another."""
        worlds = self.worlds
        # By how much all is too large at a distance of 1.
        pixel = self._spread * 2 / width if width else 0.0
        for i in worlds.changed:
            self._update(i)
        worlds.changed.clear()
        heading = (worlds.yaw / 1e4 - 90).tolist()
        yaw = np.radians(worlds.yaw / 1e4)
        ways = zip(np.cos(yaw).tolist(), np.sin(yaw).tolist(), strict=True)
        pitch = (worlds.pitch / 1e4).tolist()
        sectors = np.where(worlds.pitch == 0, worlds.yaw * SECTORS // TURN, SECTORS).tolist()
        time = worlds.trial_frame
        spins = (time % SPIN_FRAMES * (360 / SPIN_FRAMES)).tolist()
        bobs = (BOB * np.cos(time * (2 * np.pi / BOB_FRAMES))).tolist()
        sizes = np.ones(worlds.n)
        if worlds.settings.growth:
            sizes = FIRST_SIZE + (1 - FIRST_SIZE) * np.minimum(time / GROWTH_FRAMES, 1)
        heights = (worlds.z + plan.EYE).tolist()
        xs, ys = worlds.x.tolist(), worlds.y.tolist()
        make, point = p3.TransformState.makePosHprScale, p3.LVecBase3
        one = point(1, 1, 1)
        for scene, x, y, z, h, p, sector, spin, bob, size, (ahead_x, ahead_y) in zip(
            self._worlds,
            xs,
            ys,
            heights,
            heading,
            pitch,
            sectors,
            spins,
            bobs,
            sizes.tolist(),
            ways,
            strict=True,
        ):
            scene.eye.setTransform(make(point(x, y, z), point(h, p, 0), one))
            scene.look(sector)
            turn = point(spin, 0, 0)
            for node, extent, (at_x, at_y, at_z) in zip(
                scene.slots, scene.extents, scene.places, strict=False
            ):
                less = pixel * max((at_x - x) * ahead_x + (at_y - y) * ahead_y, 0.0)
                scale = point(*(_less(size, less / across) for across in extent))
                node.setTransform(make(point(at_x, at_y, at_z + bob), turn, scale))

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
        scene.show(
            [(self._models[model], self._extents[model], (x, y, z)) for model, x, y, z in shown]
        )
        scene.close(self._door.node(), room == 1 and worlds.door[i] > 0)
        if worlds.settings.textures == "random":
            scene.dress(self._walls[worlds.wall_style[i]], self._floors[worlds.floor_style[i]])

    def _aim(self, seen: _View, i: int, view: str) -> None:
        """Put the picture's camera into world i."""
        scene, worlds, aspect = self._worlds[i], self.worlds, seen.size[1] / seen.size[0]
        seen.camera.node().setScene(scene.root)
        scene.look(SECTORS)  # the picture may have another shape than the frames
        seen.camera.node().setCameraMask(AGENT if view == "agent" else TOP)
        seen.region.setClearColor((*(_SKY if view == "agent" else _TABLE), 1.0))
        if view == "agent":
            seen.camera.setTransform(scene.eye.getTransform())
            seen.camera.node().setLens(_lens(aspect))
            return
        (low_x, low_y), (high_x, high_y) = worlds.bounds[:, :, 0, i]
        # Upwards in the picture is ahead of the spawn.
        seen.camera.setPosHpr((low_x + high_x) / 2, (low_y + high_y) / 2, 900, -90, -90, 0)
        lens = p3.OrthographicLens()
        across, along = high_y - low_y + 30, high_x - low_x + 30
        span = 1.12 * max(across, along * aspect)
        lens.setFilmSize(span, span / aspect)
        lens.setNearFar(10, 2000)
        seen.camera.node().setLens(lens)
        self._rims[scene.room].reparentTo(scene.root)
        self._marker.reparentTo(scene.root)
        self._marker.setPosHpr(worlds.x[i], worlds.y[i], 60, worlds.yaw[i] / 1e4, 0, 0)


class _World:
    """Nodes of one world: the eye, which is in none, the room it is in with its sky, up to three objects, the door.

    Few nodes, and none that is empty: Panda3D walks them in every frame. Worlds share the rooms, or have their `own`,
    which they may `dress`.
    """

    def __init__(
        self,
        i: int,
        rooms: list[p3.GeomNode],
        skies: list[list[p3.GeomNode]],
        own: bool = False,
    ) -> None:
        self.root = p3.NodePath(f"world {i}")
        self.node = self.root.node()
        self.eye = p3.PandaNode("eye")
        self.rooms, self.skies = [room.makeCopy() if own else room for room in rooms], skies
        self.room = self.sector = -1
        self.sky: p3.GeomNode | None = None
        self.slots = [p3.GeomNode(f"slot {k}") for k in range(3)]
        for slot in self.slots:
            slot.setFinal(True)
        # Of the objects shown: where their middles are, and their sizes.
        self.places: list[Triple] = []
        self.extents: list[Triple] = []

    def enter(self, room: int) -> None:
        if room != self.room:
            if self.room >= 0:
                self.node.removeChild(self.rooms[self.room])
            self.node.addChild(self.rooms[room])
            self.room, self.sector = room, -1

    def look(self, sector: int) -> None:
        """Show the sky as far as it is seen at yaws of one of the `SECTORS`, or all of it."""
        if sector != self.sector:
            if self.sky is not None:
                self.node.removeChild(self.sky)
            self.sky, self.sector = self.skies[self.room][sector], sector
            self.node.addChild(self.sky)

    def show(self, objects: list[tuple[Any, Triple, Triple]]) -> None:
        """Show models, each with its size and the place of its middle."""
        for slot in self.slots[: len(self.places)]:
            self.node.removeChild(slot)
        for slot, (model, _, _) in zip(self.slots, objects, strict=False):
            slot.removeAllGeoms()
            slot.addGeom(model.node().modifyGeom(0), model.getState())
            self.node.addChild(slot)
        self.extents = [extent for _, extent, _ in objects]
        self.places = [place for _, _, place in objects]

    def close(self, door: p3.GeomNode, closed: bool) -> None:
        """Put the door into room 2's mouth, or take it away."""
        if closed != (self.node.findChild(door) >= 0):
            (self.node.addChild if closed else self.node.removeChild)(door)

    def dress(self, wall: p3.Texture, floor: p3.Texture) -> None:
        for room in self.rooms:
            for part, texture in ((WALLS, wall), (FLOOR, floor)):
                attribute = p3.TextureAttrib.make(texture)
                room.setGeomState(part, room.getGeomState(part).setAttrib(attribute))


class _View:
    """A buffer for one picture of any size, and the camera that fills it."""

    def __init__(self, engine: Any, pipe: Any, height: int, width: int) -> None:
        self.size = height, width
        self.tiles = Tiles(engine, pipe, 1, height * _FINE, width * _FINE)
        place = p3.NodePath("picture")  # the scene is set with each picture
        self.camera = _camera(place.node(), _lens(width / height), AGENT, place)
        self.region = self.tiles.look(0, self.camera, _SKY)


def _less(size: float, pixel: float) -> float:
    """`size` without a pixel, but no less than a pixel of it: what is thinner may be left out."""
    return max(size - pixel, min(size, pixel))


def _extent(model: p3.NodePath) -> Triple:
    """A model's size along its own x, y and z."""
    low, high = model.getTightBounds()
    x, y, z = high - low
    return x, y, z


def _lens(aspect: float) -> p3.PerspectiveLens:
    """The level's view: 90 degrees wide."""
    lens = p3.PerspectiveLens()
    lens.setFov(90, 2 * math.degrees(math.atan(1 / aspect)))
    lens.setNearFar(3, 3000)
    return lens


def _camera(
    eye: p3.PandaNode, lens: p3.Lens, mask: p3.BitMask32, scene: p3.NodePath
) -> p3.NodePath:
    """A camera at `eye` that sees `scene`; a scene whose eye is outside it does not change where it moves."""
    camera = p3.Camera("camera")
    camera.setLens(lens)
    camera.setCameraMask(mask)
    camera.setScene(scene)
    return p3.NodePath(eye).attachNewNode(camera)
