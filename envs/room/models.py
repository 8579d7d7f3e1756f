"""Panda3D nodes of the room task: objects, rooms, door and marker, light baked into the vertices."""

from __future__ import annotations

import functools

import numpy as np
from panda3d import core as p3

from envs.room import layout as plan
from envs.room import shapes, textures, views
from envs.room.shapes import Mesh

# For walls only: what spins must look the same from all sides.
_SIDE_LIGHT = np.array([0.35, 0.2, 0.0])
ITEM_SIZE = (27.0, 24.0, 32.0)  # of an object on average, along x, y and z
STAND, PAD = 24.0, 32.0  # radii of a stand's and the pad's hexagon
PLATE = 8.0  # height of both
TAU = 2 * np.pi
RIM = 10.0  # thickness of the walls as seen from above
WALLS, FLOOR = 0, 1  # meshes of a room
SECTORS = 24  # ranges of yaw that the sky is cut for
EYES = (
    45.0,
    85.0,
)  # heights between which every eye is: 50 on the floor, 60 on the plinth, 75 on arrival
AGENT, TOP, DEPTH = (p3.BitMask32.bit(k) for k in range(3))  # who sees a node


class NodeMaker:
    """Makes nodes; each gets its own place in a fixed draw order, so frames do not vary between runs."""

    def __init__(self) -> None:
        self._order = 0
        self._format = _vertex_format()

    def texture(self, image: np.ndarray, far: str = "mipmap") -> p3.Texture:
        """A repeating texture from uint8 [h, w, 3], row 0 at the top; far="plain" never fades to its mean."""
        texture = p3.Texture()
        height, width = image.shape[:2]
        texture.setup2dTexture(width, height, p3.Texture.TUnsignedByte, p3.Texture.FRgb)
        texture.setRamImage(np.ascontiguousarray(image[::-1, :, ::-1]).tobytes())
        texture.setWrapU(p3.SamplerState.WMRepeat)
        texture.setWrapV(p3.SamplerState.WMRepeat)
        mipmap, plain = p3.SamplerState.FTNearestMipmapNearest, p3.SamplerState.FTNearest
        texture.setMinfilter(mipmap if far == "mipmap" else plain)
        texture.setMagfilter(p3.SamplerState.FTNearest)
        return texture

    def node(
        self, name: str, mesh: Mesh, light: np.ndarray, texture: p3.Texture | None, order: int = 0
    ) -> p3.NodePath:
        """A node of a mesh with the light of its vertices (RGB 0 to 1, [P, 3] or [P, 1]) baked in."""
        data = p3.GeomVertexData(name, self._format, p3.Geom.UHStatic)
        count = len(mesh.points)
        data.setNumRows(count)
        vertices = np.zeros(count, [("p", "<f4", 3), ("c", "u1", 4), ("t", "<f4", 2)])
        colour = (np.broadcast_to(light, (count, 3)).clip(0, 1) * 255).astype(np.uint8)
        vertices["p"], vertices["t"] = mesh.points, mesh.uv
        vertices["c"][:, :3], vertices["c"][:, 3] = colour, 255
        memoryview(data.modifyArray(0)).cast("B")[:] = vertices.tobytes()
        primitive = p3.GeomTriangles(p3.Geom.UHStatic)
        for triangle in mesh.triangles:
            primitive.addVertices(*map(int, triangle))
        geom = p3.Geom(data)
        geom.addPrimitive(primitive)
        holder = p3.GeomNode(name)
        holder.addGeom(geom)
        node = p3.NodePath(holder)
        if texture is not None:
            node.setTexture(texture)
        if (colour == 255).all():  # the same picture, without multiplying by 1 for every pixel
            node.setAttrib(p3.ShadeModelAttrib.make(p3.ShadeModelAttrib.MFlat))
        self._order += 1
        node.setBin("fixed", order * 1000 + self._order)
        return node

    def item(self, index: int, scale: float) -> p3.NodePath:
        """Object `index` of the 36, about its own centre."""
        shape = textures.SHAPE_NAMES[index // 3]
        mesh = shapes.SHAPES[shape]()
        mesh = Mesh(mesh.points * (scale * _item_scale()), mesh.normals, mesh.uv, mesh.triangles)
        light = 0.8 + 0.2 * mesh.normals[:, 2:]
        texture = self.texture(textures.object_pattern(index), far="plain")
        return self.node(textures.object_name(index), mesh, light, texture)

    def room(self, layout: plan.Layout, room: int) -> p3.GeomNode:
        """A room as one node of several meshes: walls (`WALLS`), floor (`FLOOR`), stands and, in room 1, the pad."""
        corners = layout.outline(room)
        walls = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = float(np.hypot(x1 - x0, y1 - y0)) / plan.WALL
            low, high = 0.0, plan.WALL
            walls.append(
                shapes.quad(
                    [(x1, y1, low), (x0, y0, low), (x0, y0, high), (x1, y1, high)], length, 1
                )
            )
        wall = shapes.join(*walls)
        light = 0.98 + (wall.normals @ _SIDE_LIGHT)[:, None] * 0.25
        nodes = [self.node("walls", wall, light, self.texture(textures.wall_texture(0)), 2)]
        floor = shapes.join(*[_floor(*rectangle) for rectangle in _floors(layout, room)])
        texture = self.texture(textures.floor_texture(0))
        nodes.append(self.node("floor", floor, np.ones((1, 1)), texture, 3))
        stands = (layout.example_stands, layout.choice_stands)[room]
        nodes.append(self._stands(stands))
        if room == 0:
            nodes.append(self._pad(*layout.pad))
        together = p3.GeomNode("room")
        for node in nodes:
            together.addGeom(node.node().modifyGeom(0), node.getState())
        return together

    def skies(self, layout: plan.Layout, room: int, aspect: float) -> list[p3.GeomNode]:
        """A room's sky: for each of `SECTORS` equal ranges of yaw what a level eye may see of it, and last all of it.

        `aspect` is a frame's width by its height. What is left out lies outside the view of every eye in the room.
        """
        mesh, light = _sky()
        x, y = _middle(layout, room)
        nodes = []
        for kept in (*_sky_in_view(layout, room, aspect), np.ones(len(mesh.triangles), bool)):
            part, rows = shapes.part(mesh, kept)
            sky = self.node("sky", part, light[rows], None, 4)
            sky.setPos(x, y, 0)
            sky.hide(TOP | DEPTH)
            sky.node().setFinal(True)
            nodes.append(sky.node())
        return nodes

    def rim(self, layout: plan.Layout, room: int) -> p3.NodePath:
        """The walls' tops, for views from above."""
        points = np.array(layout.outline(room))
        edges = np.roll(points, -1, 0) - points
        along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
        outward = np.stack([along[:, 1], -along[:, 0]], 1)
        bars = []
        for k, (start, way, out) in enumerate(zip(points, along, outward, strict=True)):
            end = points[(k + 1) % len(points)]
            # At an outer corner the bars meet; at an inner one, longer bars would reach into the room.
            before, after = along[k - 1], along[(k + 1) % len(points)]
            if _turns_left(before, way):
                start = start - way * RIM
            if _turns_left(way, after):
                end = end + way * RIM
            flat = [start + out * RIM, end + out * RIM, end, start]
            bars.append(shapes.quad([(float(x), float(y), plan.WALL) for x, y in flat], 1, 1))
        return self.node("rim", shapes.join(*bars), np.array([[0.32, 0.48, 0.78]]), None, 2)

    def _stands(self, places: tuple) -> p3.NodePath:
        one, light = _hexagon(STAND, np.array([0.62, 0.68, 0.74]))
        both = shapes.join(*[one.moved(x, y) for x, y in places])
        return self.node("stands", both, np.concatenate([light, light]), None, 1)

    def _pad(self, x: float, y: float) -> p3.NodePath:
        plate, light = _hexagon(PAD, np.array([0.30, 0.36, 0.44]))
        glow = shapes.disc(PAD * 0.72, 6).moved(z=PLATE + 0.5)
        mesh = shapes.join(plate, glow).moved(x, y)
        # The plate has no picture of its own: it shows the white middle of the rings.
        uv = np.concatenate([np.full_like(plate.uv, 0.5), glow.uv])
        mesh = Mesh(mesh.points, mesh.normals, uv, mesh.triangles)
        light = np.concatenate([light, np.ones((len(glow.points), 3))])
        return self.node("pad", mesh, light, self.texture(textures.pad_texture()), 1)

    def door(self, layout: plan.Layout) -> p3.NodePath:
        """The closed door in the mouth of room 2's corridor."""
        half = 64 * layout.scale
        x, y = layout.at(384, -64)
        mesh = shapes.box(plan.DOOR / 2, half, plan.WALL / 2).moved(
            x + plan.DOOR / 2, y, plan.WALL / 2
        )
        yy, xx = np.mgrid[:256, :256]
        stripes = np.full((256, 256, 3), (70, 74, 84), np.uint8)
        stripes[((xx + yy) % 64 < 24) & (abs(yy - 128) < 40)] = (225, 190, 40)
        stripes[(abs(yy - 128) >= 40) & (abs(yy - 128) < 46)] = (40, 42, 50)
        return self.node("door", mesh, np.ones((1, 1)), self.texture(stripes), 1)

    def depth_state(self, reach: float, near: float, far: float) -> p3.RenderState:
        """What makes a camera draw the depth byte of planes `near` and `far`, as far as `reach` units."""
        distance = (np.arange(1024) + 0.5) * (reach / 1024)
        byte = np.rint(255 * far / (far - near) * (1 - near / distance)).clip(0, 255)
        ramp = np.broadcast_to(byte.astype(np.uint8)[None, :, None], (4, 1024, 3))
        texture = self.texture(ramp, far="plain")
        texture.setWrapU(p3.SamplerState.WMClamp)
        stage, matrix = p3.TextureStage.getDefault(), p3.LMatrix4f()
        matrix.fill(0)
        matrix.setCell(1, 0, 1 / reach)  # the eye's second axis points ahead
        matrix.setCell(2, 2, 1)
        matrix.setCell(3, 3, 1)
        state = p3.NodePath("depth")
        over = 100  # more than any node's own
        state.setTexture(texture, over)
        mode = p3.TexGenAttrib.MEyePosition
        state.setAttrib(p3.TexGenAttrib.make(stage, mode), over)
        transform = p3.TransformState.makeMat(p3.LMatrix4f(matrix))
        state.setAttrib(p3.TexMatrixAttrib.make(stage, transform), over)
        state.setAttrib(p3.ColorAttrib.makeFlat(p3.LColor(1, 1, 1, 1)), over)
        return state.getState()

    def marker(self) -> p3.NodePath:
        """An arrow for the top view that points along +x."""
        points = np.array([[26, 0, 0], [-16, 16, 0], [-8, 0, 0], [-16, -16, 0]], float)
        triangles = np.array([(0, 1, 2), (0, 2, 3)])
        mesh = Mesh(points, np.tile([0.0, 0, 1], (4, 1)), np.zeros((4, 2)), triangles)
        node = self.node("marker", mesh, np.array([[1.0, 0.1, 0.25]]), None, 0)
        node.setTwoSided(True)
        node.setDepthTest(False)
        node.setBin("fixed", 9000)
        return node


@functools.cache
def _item_scale() -> np.ndarray:
    """What brings the shapes to the size of the level's objects, on average; x and y alike, for they spin."""
    mean = np.mean([np.ptp(make().points, axis=0) for make in shapes.SHAPES.values()], axis=0)
    across = (ITEM_SIZE[0] + ITEM_SIZE[1]) / (mean[0] + mean[1])
    return np.array([across, across, ITEM_SIZE[2] / mean[2]])


def _hexagon(radius: float, top: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """A flat hexagonal plate with a cyan rim, and its light [P, 3]."""
    side = shapes.lathe([(radius, 0), (radius * 0.96, PLATE)], 6)
    rim = shapes.lathe([(radius * 0.96, PLATE), (radius * 0.8, PLATE)], 6)
    inner = shapes.disc(radius * 0.8, 6).moved(z=PLATE)
    colours = (np.array([0.10, 0.42, 0.50]), np.array([0.25, 0.95, 1.0]), top)
    parts = (side, rim, inner)
    light = [np.tile(c, (len(m.points), 1)) for c, m in zip(colours, parts, strict=True)]
    return shapes.join(*parts), np.concatenate(light)


def _middle(layout: plan.Layout, room: int) -> tuple[float, float]:
    x, y = map(float, np.mean(layout.outline(room), 0))
    return x, y


@functools.lru_cache(maxsize=64)
def _sky_in_view(layout: plan.Layout, room: int, aspect: float) -> list[np.ndarray]:
    """For each range of yaw, which of the sky's triangles an eye in the room may see: bool [K] each."""
    mesh, _ = _sky()
    x, y = _middle(layout, room)
    low_x, high_x, low_y, high_y = layout.bounds(room)
    eyes = np.array([(low_x - x, low_y - y, EYES[0]), (high_x - x, high_y - y, EYES[1])])
    triangles, width = mesh.points[mesh.triangles], TAU / SECTORS
    yaws = [np.linspace(k - 0.1, k + 1.1, 25) * width for k in range(SECTORS)]
    return [views.may_be_seen(triangles, eyes, sector, 1 / aspect) for sector in yaws]


@functools.cache
def _sky() -> tuple[Mesh, np.ndarray]:
    """The dome and the city before it, about the middle of a room, with their light [P, 3]."""
    radius, low = 1600.0, 60.0
    rings = [(radius, low), (radius * 0.95, 350.0), (radius * 0.7, 900.0), (0, 1400.0)]
    dome = shapes.lathe(rings, 8)
    height = (dome.points[:, 2:] - low) / 900
    light = np.array([0.62, 0.88, 1.0]) * (1 - height) + np.array([0.42, 0.74, 1.0]) * height
    inside = Mesh(dome.points, -dome.normals, dome.uv, dome.triangles[:, ::-1])
    city, city_light = _city()  # first in the mesh, so that the dome behind it is not painted
    return shapes.join(city, inside), np.concatenate([city_light, light])


def _city() -> tuple[Mesh, np.ndarray]:
    """The stadium's stands all round and towers behind them, seen over the walls; with their light [P, 3]."""
    rng = np.random.default_rng(7)
    parts, colours = [], []
    panels = 14
    for k in range(panels):  # the bowl of the stadium, open to the east and west
        if k % 7 == 6:
            continue
        a, b = (TAU * (k + e) / panels for e in (0.0, 1.0))
        for low, high, tone in ((60, 390, (0.55, 0.66, 0.76)), (390, 425, (0.85, 0.90, 0.95))):
            parts.append(_upright(a, b, 1150.0, low, high))
            colours.append(np.array(tone) * (0.92 + 0.08 * (k % 2)))
    for angle in np.arange(10) * TAU / 10 + rng.uniform(0, 0.4, 10):
        width, top = rng.uniform(0.025, 0.06), rng.uniform(520, 900)
        parts.append(_upright(angle, angle + width, 1350.0, 60, top))
        colours.append(np.array([0.38, 0.55, 0.74]) * rng.uniform(0.85, 1.15))
    light = np.concatenate(
        [np.tile(c, (len(m.points), 1)) for c, m in zip(colours, parts, strict=True)]
    )
    return shapes.join(*parts), light


def _upright(a: float, b: float, radius: float, low: float, high: float) -> Mesh:
    """A rectangle that stands at some distance between two angles and faces the middle."""
    (x0, y0), (x1, y1) = ((radius * np.cos(t), radius * np.sin(t)) for t in (a, b))
    return shapes.quad([(x1, y1, low), (x0, y0, low), (x0, y0, high), (x1, y1, high)], 1, 1)


def _turns_left(way: np.ndarray, after: np.ndarray) -> bool:
    return bool(way[0] * after[1] > way[1] * after[0])


def _floors(layout: plan.Layout, room: int) -> list[tuple[float, float, float, float]]:
    """A room's floor as rectangles (x0, x1, y0, y1)."""
    s = layout.scale
    plain = ([(-256, 128, -256, 128)], [(256, 384, -128, 0), (384, 640, -248, 128)])[room]
    return [(a * s, b * s, c * s, d * s) for a, b, c, d in plain]


def _floor(x0: float, x1: float, y0: float, y1: float) -> Mesh:
    mesh = shapes.quad([(x0, y0, 0), (x1, y0, 0), (x1, y1, 0), (x0, y1, 0)], 1, 1)
    return Mesh(mesh.points, mesh.normals, mesh.points[:, :2] / 128, mesh.triangles)


def _vertex_format() -> p3.GeomVertexFormat:
    array = p3.GeomVertexArrayFormat()
    array.addColumn(p3.InternalName.getVertex(), 3, p3.Geom.NTFloat32, p3.Geom.CPoint)
    array.addColumn(p3.InternalName.getColor(), 4, p3.Geom.NTUint8, p3.Geom.CColor)
    array.addColumn(p3.InternalName.getTexcoord(), 2, p3.Geom.NTFloat32, p3.Geom.CTexcoord)
    return p3.GeomVertexFormat.registerFormat(p3.GeomVertexFormat(array))
