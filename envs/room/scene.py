"""Draws N room worlds at once: Panda3D, one offscreen buffer, one tile of it for each world."""

from __future__ import annotations

import math

import cv2
import numpy as np
from panda3d import core as p3

from envs.errors import MissingDependencyError
from envs.room import layout as plan
from envs.room import textures
from envs.room.dynamics import N_STYLES, RoomWorlds
from envs.room.models import NodeMaker

_CONFIG = """load-display {library}
window-type offscreen
audio-library-name null
sync-video 0
notify-level error
notify-level-x11display fatal
garbage-collect-states 0
gl-coordinate-system default
"""
_LIBRARIES = {"cpu": "p3tinydisplay", "gpu": "p3headlessgl"}
_MAX_ROWS = 8192  # of the buffer; more worlds open another column of tiles
SPIN_FRAMES = 240  # an object turns once in four seconds
AGENT, TOP = p3.BitMask32.bit(0), p3.BitMask32.bit(1)
_pipes: dict[str, p3.GraphicsPipe] = {}


def _pipe(renderer: str) -> p3.GraphicsPipe:
    if renderer not in _LIBRARIES:
        raise ValueError(f"unknown renderer {renderer!r}: choose cpu or gpu")
    if renderer not in _pipes:
        p3.loadPrcFileData("ct_rl room", _CONFIG.format(library=_LIBRARIES[renderer]))
        selection = p3.GraphicsPipeSelection.getGlobalPtr()
        pipe = selection.makeModulePipe(_LIBRARIES[renderer])
        if pipe is None and renderer == "cpu":
            raise MissingDependencyError(
                "the room task's renderer needs libX11.so.6: install it (Debian: apt-get install libx11-6)"
            )
        if pipe is None:
            raise MissingDependencyError(
                "renderer='gpu' needs an EGL driver (libEGL.so.1): use renderer='cpu'"
            )
        _pipes[renderer] = pipe
    return _pipes[renderer]


class RoomScene:
    """The picture side of `RoomWorlds`: `frames()` draws every world as its state stands."""

    def __init__(self, worlds: RoomWorlds, height: int, width: int, renderer: str = "cpu") -> None:
        self.worlds, self.height, self.width = worlds, height, width
        self._pipe = _pipe(renderer)
        self._engine = p3.GraphicsEngine(self._pipe)
        n = worlds.n
        self._rows = min(n, max(1, _MAX_ROWS // height))
        self._columns = -(-n // self._rows)
        self._window, self._texture = self._buffer(self._columns * width, self._rows * height)
        settings, maker = worlds.settings, NodeMaker()
        order = textures.most_different_first()
        self._models = [maker.item(k, settings.object_scale) for k in order]
        self._rooms = [maker.room(worlds.layout, room) for room in (0, 1)]
        self._door = maker.door(worlds.layout)
        self._walls = [maker.texture(textures.wall_texture(k)) for k in range(N_STYLES)]
        self._floors = [maker.texture(textures.floor_texture(k)) for k in range(N_STYLES)]
        self._stage = p3.TextureStage.getDefault()
        self._spins = [
            p3.LMatrix3f.rotateMat(k * 360 / SPIN_FRAMES, p3.LVector3f(0, 0, 1))
            for k in range(SPIN_FRAMES)
        ]
        self._lens = _lens(width / height)
        self._worlds = [self._world(i) for i in range(n)]
        self._marker = maker.marker()
        self._flipped = np.empty((self._rows * height, self._columns * width, 4), np.uint8)
        self._view: tuple | None = None

    def _buffer(self, width: int, height: int) -> tuple[p3.GraphicsOutput, p3.Texture]:
        properties = p3.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setRgbaBits(8, 8, 8, 8)
        properties.setDepthBits(24)
        window = self._engine.makeOutput(
            self._pipe,
            "rooms",
            0,
            properties,
            p3.WindowProperties.size(width, height),
            p3.GraphicsPipe.BFRefuseWindow,
        )
        if window is None:
            raise RuntimeError(f"the renderer gave no offscreen buffer of {width}x{height}")
        texture = p3.Texture()
        window.addRenderTexture(texture, p3.GraphicsOutput.RTMCopyRam)
        window.setClearColorActive(False)
        window.setClearDepthActive(False)
        return window, texture

    def _world(self, i: int) -> _World:
        root = p3.NodePath(f"world {i}")
        camera = _camera(root, self._lens, AGENT)
        x, y = divmod(i, self._rows)
        region = self._window.makeDisplayRegion(
            x / self._columns,
            (x + 1) / self._columns,
            1 - (y + 1) / self._rows,
            1 - y / self._rows,
        )
        _prepare(region, camera)
        return _World(root, camera, self._rooms)

    def _update(self, i: int) -> None:
        """Put into world i's scene what its state says."""
        worlds, scene = self.worlds, self._worlds[i]
        room = int(worlds.room[i])
        shown: list[tuple[int, float, float, float]] = []
        if room == 0:
            x, y = worlds.layout.example_stands[worlds.example_side[i]]
            shown.append((int(worlds.match[i]), x, y, plan.EXAMPLE_Z))
        else:
            stands, right = worlds.layout.choice_stands, int(worlds.match_side[i])
            if not worlds.finished[i]:
                shown.append((int(worlds.match[i]), *stands[right], plan.CHOICE_Z))
                shown.append((int(worlds.other[i]), *stands[1 - right], plan.CHOICE_Z))
            if worlds.settings.distractor:
                shown.append((int(worlds.distractor[i]), *worlds.layout.distractor, 104.0))
        scene.enter(room)
        for slot, node in enumerate(scene.slots):
            node.node().removeAllChildren()
            if slot < len(shown):
                model, x, y, z = shown[slot]
                node.node().addChild(self._models[model].node())
                node.setPos(x, y, z)
        scene.shown = len(shown)
        scene.extra.node().removeAllChildren()
        if room == 1 and worlds.door[i] > 0:
            scene.extra.node().addChild(self._door.node())
        if worlds.settings.textures == "random":
            wall, floor = self._walls[worlds.wall_style[i]], self._floors[worlds.floor_style[i]]
            scene.dress(wall, floor)

    def _place(self) -> None:
        worlds = self.worlds
        for i in worlds.changed:
            self._update(i)
        worlds.changed.clear()
        heading = (worlds.yaw * (360 / 65536) - 90).tolist()
        pitch = (worlds.pitch * (360 / 65536)).tolist()
        spins = (worlds.frame % SPIN_FRAMES).tolist()
        for scene, x, y, h, p, spin in zip(
            self._worlds, worlds.x.tolist(), worlds.y.tolist(), heading, pitch, spins, strict=True
        ):
            scene.camera.setPosHpr(x, y, plan.EYE, h, p, 0)
            for node in scene.slots[: scene.shown]:
                node.setH(spin * (360 / SPIN_FRAMES))

    def frames(self) -> np.ndarray:
        """Every world's frame, uint8 [N, height, width, 3], a fresh array."""
        self._place()
        self._engine.renderFrame()
        flipped = self._flipped
        cv2.flip(_pixels(self._texture, *flipped.shape[:2]), 0, dst=flipped)
        out = np.empty((*flipped.shape[:2], 3), np.uint8)
        cv2.cvtColor(flipped, cv2.COLOR_BGRA2RGB, dst=out)
        if self._columns == 1:
            return out.reshape(-1, self.height, self.width, 3)
        tiles = out.reshape(self._rows, self.height, self._columns, self.width, 3)
        tiles = tiles.transpose(2, 0, 1, 3, 4).reshape(-1, self.height, self.width, 3)
        return np.ascontiguousarray(tiles[: self.worlds.n])

    def picture(self, i: int, height: int, width: int, view: str = "agent") -> np.ndarray:
        """World i at any size, uint8 [height, width, 3]; view is "agent" or "top"."""
        if view not in ("agent", "top"):
            raise ValueError(f"unknown view {view!r}: choose agent or top")
        self._place()
        if self._view is None or self._view[0] != (height, width):
            if self._view is not None:
                self._engine.removeWindow(self._view[1])
            window, texture = self._buffer(width, height)
            region = window.makeDisplayRegion()
            camera = _camera(p3.NodePath("picture"), _lens(width / height), AGENT)
            _prepare(region, camera)
            self._view = ((height, width), window, texture, camera)
        _, window, texture, camera = self._view
        scene, worlds = self._worlds[i], self.worlds
        camera.reparentTo(scene.root)
        if view == "agent":
            camera.setTransform(scene.camera.getTransform())
            camera.node().setLens(_lens(width / height))
            camera.node().setCameraMask(AGENT)
        else:
            low_x, high_x, low_y, high_y = worlds.bounds[i]
            camera.setPosHpr((low_x + high_x) / 2, (low_y + high_y) / 2, 900, -90, -90, 0)
            lens = p3.OrthographicLens()
            span = 1.15 * max((high_y - low_y + 30), (high_x - low_x + 30) * width / height)
            lens.setFilmSize(span, span * height / width)
            lens.setNearFar(10, 2000)
            camera.node().setLens(lens)
            camera.node().setCameraMask(TOP)
            self._marker.reparentTo(scene.root)
            self._marker.setPosHpr(
                worlds.x[i], worlds.y[i], 60, worlds.yaw[i] * (360 / 65536), 0, 0
            )
        self._window.setActive(False)
        window.setActive(True)
        self._engine.renderFrame()
        window.setActive(False)
        self._window.setActive(True)
        self._marker.detachNode()
        pixels = _pixels(texture, height, width)
        return cv2.cvtColor(np.ascontiguousarray(pixels[::-1]), cv2.COLOR_BGRA2RGB)

    def close(self) -> None:
        self._engine.removeAllWindows()


class _World:
    """Nodes of one world: camera, both rooms, up to three objects, the door."""

    def __init__(self, root: p3.NodePath, camera: p3.NodePath, rooms: list) -> None:
        self.root, self.camera = root, camera
        self.parts = []
        for parts in rooms:
            node = p3.NodePath("room")
            for part in parts:
                holder = node.attachNewNode(part.getName())
                part.instanceTo(holder)
            self.parts.append(node)
        self.room = -1
        self.slots = [root.attachNewNode(f"slot {k}") for k in range(3)]
        self.extra = root.attachNewNode("extra")
        self.shown = 0

    def enter(self, room: int) -> None:
        if room != self.room:
            if self.room >= 0:
                self.parts[self.room].detachNode()
            self.parts[room].reparentTo(self.root)
            self.room = room

    def dress(self, wall: p3.Texture, floor: p3.Texture) -> None:
        for node in self.parts:
            node.find("walls").setTexture(wall, 1)
            node.find("floor").setTexture(floor, 1)


def _lens(aspect: float) -> p3.PerspectiveLens:
    """The level's view: 90 degrees wide."""
    lens = p3.PerspectiveLens()
    lens.setFov(90, 2 * math.degrees(math.atan(1 / aspect)))
    lens.setNearFar(3, 3000)
    return lens


def _camera(root: p3.NodePath, lens: p3.Lens, mask: p3.BitMask32) -> p3.NodePath:
    camera = p3.Camera("eye")
    camera.setLens(lens)
    camera.setCameraMask(mask)
    return root.attachNewNode(camera)


def _prepare(region: p3.DisplayRegion, camera: p3.NodePath) -> None:
    region.setCamera(camera)
    region.setClearColorActive(True)
    region.setClearColor((0.42, 0.66, 0.95, 1))
    region.setClearDepthActive(True)


def _pixels(texture: p3.Texture, height: int, width: int) -> np.ndarray:
    """A view of the rendered buffer, BGRA uint8 [height, width, 4], bottom row first."""
    data = np.frombuffer(texture.getRamImage(), np.uint8)
    return data.reshape(height, width, -1)
