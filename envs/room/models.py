"""Panda3D nodes of the room task: objects, rooms, door and marker, light baked into the vertices."""

from __future__ import annotations

import numpy as np
from panda3d import core as p3

from envs.room import layout as plan
from envs.room import shapes, textures
from envs.room.shapes import Mesh

# For walls only: what spins must look the same from all sides.
_SIDE_LIGHT = np.array([0.35, 0.2, 0.0])
RIM = 10.0  # thickness of the walls as seen from above
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
        self._order += 1
        node.setBin("fixed", order * 1000 + self._order)
        return node

    def item(self, index: int, scale: float) -> p3.NodePath:
        """Object `index` of the 36, about its own centre."""
        shape = textures.SHAPE_NAMES[index // 3]
        mesh = shapes.SHAPES[shape]()
        mesh = Mesh(mesh.points * scale, mesh.normals, mesh.uv, mesh.triangles)
        light = 0.8 + 0.2 * mesh.normals[:, 2:]
        texture = self.texture(textures.object_pattern(index), far="plain")
        return self.node(textures.object_name(index), mesh, light, texture)

    def room(self, layout: plan.Layout, room: int) -> list[p3.NodePath]:
        """The nodes of a room, each named: walls, floor, stands, sky and, in room 1, the pad."""
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
        light = 0.85 + (wall.normals @ _SIDE_LIGHT)[:, None] * 0.4
        nodes = [self.node("walls", wall, light, self.texture(textures.wall_texture(0)), 2)]
        floor = shapes.join(*[_floor(*rectangle) for rectangle in _floors(layout, room)])
        texture = self.texture(textures.floor_texture(0))
        nodes.append(self.node("floor", floor, np.ones((1, 1)), texture, 3))
        stands = (layout.example_stands, layout.choice_stands)[room]
        nodes.append(self._stands(stands, (0.0, 8.0)[room]))
        if room == 0:
            nodes.append(self._pad(*layout.pad))
        rim = self._rim(corners)
        rim.hide(AGENT | DEPTH)
        sky = self._sky()
        x, y = np.mean(corners, 0)
        sky.setPos(float(x), float(y), 0)
        sky.hide(TOP | DEPTH)
        return [*nodes, rim, sky]

    def _rim(self, corners: list[tuple[float, float]]) -> p3.NodePath:
        """The walls' tops, which only the view from above shows."""
        points = np.array(corners)
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
            bars.append(shapes.quad([(*map(float, xy), plan.WALL) for xy in flat], 1, 1))
        return self.node("rim", shapes.join(*bars), np.array([[0.32, 0.48, 0.78]]), None, 2)

    def _stands(self, places: tuple, lift: float) -> p3.NodePath:
        column = shapes.lathe([(13, 0), (9, 5), (9, 9 + lift), (14, 13 + lift)], 8)
        cap = shapes.disc(14, 8).moved(z=13 + lift)
        one = shapes.join(column, cap)
        shade = np.where(one.normals[:, 2:] > 0.9, 1.0, 0.62 + 0.3 * one.normals[:, :1] * -1)
        light = shade * np.array([[0.80, 0.84, 0.90]])
        both = shapes.join(*[one.moved(x, y) for x, y in places])
        return self.node("stands", both, np.concatenate([light, light]), None, 1)

    def _pad(self, x: float, y: float) -> p3.NodePath:
        rim = shapes.lathe([(32, 0), (28, 10)], 16)
        top = shapes.disc(28, 16).moved(z=10)
        mesh = shapes.join(rim, top).moved(x, y)
        light = np.ones((len(mesh.points), 3))
        light[: len(rim.points)] = (0.45, 0.6, 0.62)
        rim_uv = np.full_like(rim.uv, 0.5)
        mesh = Mesh(mesh.points, mesh.normals, np.concatenate([rim_uv, top.uv]), mesh.triangles)
        return self.node("pad", mesh, light, self.texture(textures.pad_texture()), 1)

    def _sky(self) -> p3.NodePath:
        radius, low = 1600.0, 60.0
        rings = [(radius, low), (radius * 0.95, 350.0), (radius * 0.7, 900.0), (0, 1400.0)]
        dome = shapes.lathe(rings, 8)
        height = (dome.points[:, 2:] - low) / 900
        light = np.array([0.80, 0.90, 1.0]) * (1 - height) + np.array([0.20, 0.42, 0.85]) * height
        inside = Mesh(dome.points, -dome.normals, dome.uv, dome.triangles[:, ::-1])
        return self.node("sky", inside, light, None, 4)

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

    def depth_state(self, far: float) -> p3.RenderState:
        """What makes a camera draw distances along its view as brightness, white from `far` units on."""
        ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (4, 256, 3))
        texture = self.texture(ramp, far="plain")
        texture.setWrapU(p3.SamplerState.WMClamp)
        stage, matrix = p3.TextureStage.getDefault(), p3.LMatrix4f()
        matrix.fill(0)
        matrix.setCell(1, 0, 1 / far)  # the eye's second axis points ahead
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
