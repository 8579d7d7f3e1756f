"""The room task drawn by Panda3D: N worlds as tiles of ONE offscreen buffer, rendered in one pass.

Frames depend on nothing but a world's own state: not on its neighbours, the batch or the process.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.errors import MissingDependencyError
from envs.room import level, shapes

EYE_HEIGHT = 50.0
FIELD_OF_VIEW = 90.0  # degrees, horizontal
_MAX_BUFFER_HEIGHT = 8192  # pixels; more worlds open another column
SPIN_PER_FRAME = 1.5  # degrees; objects turn, as in DeepMind Lab

_SETTINGS = """
load-display p3tinydisplay
window-type offscreen
audio-library-name null
sync-video 0
notify-level error
notify-level-x11display fatal
garbage-collect-states 0
"""


def _panda() -> Any:
    try:
        from panda3d import core
    except ImportError as error:
        raise MissingDependencyError(
            "the embedded room task needs panda3d: pip install panda3d"
        ) from error
    core.loadPrcFileData("ct_rl", _SETTINGS)
    return core


class RoomScene:
    """Draws N worlds.

    Args:
        num_worlds: N.
        height, width: of one world's frame, in pixels.

    Raises:
        MissingDependencyError: where Panda3D or the X11 library that it loads is missing.
    """

    def __init__(self, num_worlds: int, height: int, width: int):
        self.core = core = _panda()
        self.num, self.height, self.width = num_worlds, height, width
        # One column of tiles: side by side, a tile's polygons can reach some pixels into the next.
        self.rows = min(num_worlds, max(1, _MAX_BUFFER_HEIGHT // height))
        self.columns = -(-num_worlds // self.rows)
        self._order = 0
        pipe = core.GraphicsPipeSelection.getGlobalPtr().makeDefaultPipe()
        if pipe is None:
            raise MissingDependencyError(
                "Panda3D could not start its software renderer: libX11.so.6 is missing "
                "(Debian package libx11-6)"
            )
        self.engine = core.GraphicsEngine(pipe)
        self.buffer = self._make_buffer(pipe)
        self.texture = core.Texture()
        self.buffer.addRenderTexture(self.texture, core.GraphicsOutput.RTMCopyRam)
        self.buffer.setClearColorActive(False)
        self._rooms = [self._build_room(0), self._build_room(1)]
        self._objects = [self._build_object(i) for i in range(level.NUM_OBJECTS)]
        self._worlds = [self._build_world(i) for i in range(num_worlds)]
        self._shown = np.full((num_worlds, 4), -1)

    def _make_buffer(self, pipe: Any) -> Any:
        core = self.core
        properties = core.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setRgbaBits(8, 8, 8, 8)
        properties.setDepthBits(16)
        size = core.WindowProperties.size(self.columns * self.width, self.rows * self.height)
        buffer = self.engine.makeOutput(
            pipe, "worlds", 0, properties, size, core.GraphicsPipe.BFRefuseWindow
        )
        if buffer is None:
            raise RuntimeError(
                f"Panda3D refused a buffer of {self.columns * self.width}x{self.rows * self.height} pixels"
            )
        return buffer

    # -- building ----------------------------------------------------------------------------------

    def _node(self, mesh: shapes.Mesh, texture: Any) -> Any:
        core = self.core
        vertices, faces = mesh
        data = core.GeomVertexData("mesh", core.GeomVertexFormat.getV3n3t2(), core.Geom.UHStatic)
        data.setNumRows(len(vertices))
        rows = np.frombuffer(memoryview(data.modifyArray(0)).cast("B"), np.float32)
        rows.reshape(-1, 8)[:] = vertices.astype(np.float32)
        triangles = core.GeomTriangles(core.Geom.UHStatic)
        for a, b, c in faces:
            triangles.addVertices(int(a), int(b), int(c))
        geometry = core.Geom(data)
        geometry.addPrimitive(triangles)
        node = core.GeomNode("mesh")
        node.addGeom(geometry)
        path = core.NodePath(node)
        path.setTexture(texture)
        # A fixed order of drawing: Panda3D's own varies, and some pixels with it.
        self._order += 1
        path.setBin("fixed", self._order)
        return path

    def _texture(self, pixels: np.ndarray) -> Any:
        core = self.core
        texture = core.Texture()
        height, width = pixels.shape[:2]
        texture.setup2dTexture(width, height, core.Texture.TUnsignedByte, core.Texture.FRgb)
        texture.setRamImage(np.ascontiguousarray(pixels[::-1, :, ::-1]).tobytes())
        texture.setWrapU(core.SamplerState.WM_repeat)
        texture.setWrapV(core.SamplerState.WM_repeat)
        # No mipmaps: they turn a distant pattern grey, and telling objects apart is the task.
        texture.setMinfilter(core.SamplerState.FT_nearest)
        texture.setMagfilter(core.SamplerState.FT_nearest)
        return texture

    def _quad(self, corners: list[tuple[float, float, float]], texture: Any, u: float, v: float):
        points = np.array(corners)
        normal = np.cross(points[1] - points[0], points[3] - points[0])
        normal /= np.linalg.norm(normal)
        uv = np.array([[0, 0], [u, 0], [u, v], [0, v]])
        vertices = np.concatenate([points, np.tile(normal, (4, 1)), uv], 1)
        node = self._node((vertices, np.array([[0, 1, 2], [0, 2, 3]])), texture)
        node.setTwoSided(True)
        return node

    def _build_room(self, room: int) -> Any:
        wall = self._texture(shapes.tiles((40, 92, 200), 32, seed=0))
        floor = self._texture(shapes.tiles((222, 126, 44), 32, seed=1))
        stand = self._texture(shapes.tiles((150, 150, 168), 64, seed=2))
        (x0, x1), (y0, y1) = level.ROOM_1
        outline = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        stands = level.EXAMPLE_STANDS
        if room == 1:
            (c0, c1), (d0, d1) = level.CORRIDOR
            (h0, h1), (k0, k1) = level.HALL
            outline = [
                (c0, d0),
                (c1, d0),
                (h0, k0),
                (h1, k0),
                (h1, k1),
                (h0, k1),
                (c1, d1),
                (c0, d1),
            ]
            stands = level.CHOICE_STANDS
        root = self.core.NodePath("room")
        xs, ys = [x for x, _ in outline], [y for _, y in outline]
        (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
        ground = [(x0, y0, 0.0), (x1, y0, 0.0), (x1, y1, 0.0), (x0, y1, 0.0)]
        self._quad(ground, floor, (x1 - x0) / 128, (y1 - y0) / 128).reparentTo(root)
        for sx, sy in stands:
            self._plate(root, (sx, sy), 28.0, stand)
        if room == 0:
            pad = self._texture(shapes.tiles((60, 230, 120), 8, seed=3))
            self._plate(root, level.PAD, 32.0, pad)
        for (ax, ay), (bx, by) in zip(outline, outline[1:] + outline[:1], strict=True):
            length, top = math.hypot(bx - ax, by - ay), level.WALL_HEIGHT
            corners = [(ax, ay, 0.0), (bx, by, 0.0), (bx, by, top), (ax, ay, top)]
            side = self._quad(corners, wall, length / 128, 1.0)
            shade = 0.8 if ay == by else 1.0
            side.setColorScale(shade, shade, shade, 1)
            side.reparentTo(root)
        return root

    def _plate(self, root: Any, centre: tuple[float, float], half: float, texture: Any) -> None:
        (x, y), z = centre, 1.0
        corners = [
            (x - half, y - half, z),
            (x + half, y - half, z),
            (x + half, y + half, z),
            (x - half, y + half, z),
        ]
        self._quad(corners, texture, 1.0, 1.0).reparentTo(root)

    def _build_object(self, index: int) -> Any:
        node = self._node(
            shapes.object_mesh(index // 3), self._texture(shapes.object_texture(index))
        )
        node.setTwoSided(True)
        return node

    def _build_world(self, i: int) -> dict[str, Any]:
        core = self.core
        root = core.NodePath(f"world {i}")
        lens = core.PerspectiveLens()
        lens.setAspectRatio(self.width / self.height)
        lens.setFov(FIELD_OF_VIEW)
        lens.setNearFar(3, 1500)
        camera = core.Camera("camera")
        camera.setLens(lens)
        eye = root.attachNewNode(camera)
        column, row = i % self.columns, i // self.columns
        region = self.buffer.makeDisplayRegion(
            column / self.columns,
            (column + 1) / self.columns,
            1 - (row + 1) / self.rows,
            1 - row / self.rows,
        )
        region.setCamera(eye)
        region.setClearColorActive(True)
        region.setClearColor((0.5, 0.72, 1.0, 1.0))
        region.setClearDepthActive(True)
        rooms = []
        for room in self._rooms:
            rooms.append(root.attachNewNode("room"))
            room.instanceTo(rooms[-1])
        ambient, sun = core.AmbientLight("ambient"), core.DirectionalLight("sun")
        ambient.setColor((0.72, 0.72, 0.72, 1))
        sun.setColor((0.45, 0.45, 0.45, 1))
        lights = [root.attachNewNode(ambient), root.attachNewNode(sun)]
        lights[1].setHpr(-40, -55, 0)
        slots = [root.attachNewNode("object") for _ in range(3)]
        for slot in slots:
            for light in lights:
                slot.setLight(light)
        return {"eye": eye, "rooms": rooms, "slots": slots}

    # -- drawing -----------------------------------------------------------------------------------

    def _arrange(self, i: int, worlds: level.Worlds) -> None:
        """Puts room and objects of world i where they belong, where that has changed."""
        places = (
            (worlds.match[i], level.EXAMPLE_STANDS[worlds.example_side[i]], level.EXAMPLE_HEIGHT),
            (worlds.match[i], level.CHOICE_STANDS[worlds.match_side[i]], level.CHOICE_HEIGHT),
            (worlds.other[i], level.CHOICE_STANDS[1 - worlds.match_side[i]], level.CHOICE_HEIGHT),
        )
        world = self._worlds[i]
        for number, (slot, (which, (x, y), z)) in enumerate(
            zip(world["slots"], places, strict=True)
        ):
            slot.getChildren().detach()
            if (number > 0) == bool(worlds.room[i]):
                self._objects[which].instanceTo(slot)
                slot.setPos(x, y, z)
        for number, room in enumerate(world["rooms"]):
            (room.show if number == worlds.room[i] else room.hide)()

    def render(self, worlds: level.Worlds, age: np.ndarray) -> np.ndarray:
        """Frames [N, H, W, 3] uint8 of the worlds; `age` [N] frames since the episode began turns the objects."""
        now = np.stack(
            [
                worlds.room,
                worlds.match * level.NUM_OBJECTS + worlds.other,
                worlds.example_side,
                worlds.match_side,
            ],
            1,
        )
        for i in np.flatnonzero((now != self._shown).any(1)):
            self._arrange(i, worlds)
        self._shown = now
        heading = np.degrees(worlds.yaw) - 90.0
        spin = age * SPIN_PER_FRAME
        for i, world in enumerate(self._worlds):
            x, y = worlds.position[i]
            world["eye"].setPosHpr(x, y, EYE_HEIGHT, heading[i], 0, 0)
            if worlds.room[i]:
                world["slots"][1].setH(spin[i])
                world["slots"][2].setH(spin[i])
            else:
                world["slots"][0].setH(spin[i])
        self.engine.renderFrame()
        image = np.frombuffer(self.texture.getRamImage(), np.uint8)
        # The buffer is stored from the bottom up, in BGRA.
        tiled = image.reshape(self.rows, self.height, self.columns, self.width, -1)
        upright = tiled[::-1, ::-1, :, :, 2::-1].transpose(0, 2, 1, 3, 4)
        frames = np.ascontiguousarray(upright).reshape(-1, self.height, self.width, 3)
        return frames[: self.num]

    def close(self) -> None:
        """Frees the buffer."""
        self.engine.removeAllWindows()
