"""The twelve shapes of the objects as triangle meshes, and the boxes and discs the rooms are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

TAU = 2 * np.pi


@dataclass(frozen=True)
class Mesh:
    """points [P, 3], normals [P, 3], uv [P, 2], triangles int [K, 3]."""

    points: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray

    def moved(self, x: float = 0, y: float = 0, z: float = 0) -> Mesh:
        return Mesh(self.points + np.array([x, y, z]), self.normals, self.uv, self.triangles)

    def turned(self) -> Mesh:
        """The mesh with its z axis laid along x."""
        order = [2, 0, 1]
        return Mesh(self.points[:, order], self.normals[:, order], self.uv, self.triangles)


def join(*meshes: Mesh) -> Mesh:
    """All meshes as one."""
    starts = np.cumsum([0, *(len(mesh.points) for mesh in meshes[:-1])])
    return Mesh(
        np.concatenate([mesh.points for mesh in meshes]),
        np.concatenate([mesh.normals for mesh in meshes]),
        np.concatenate([mesh.uv for mesh in meshes]),
        np.concatenate([m.triangles + s for m, s in zip(meshes, starts, strict=True)]),
    )


def part(mesh: Mesh, kept: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """The triangles with `kept` True (bool [K]), in their order, and which rows of the points they use."""
    rows, triangles = np.unique(mesh.triangles[kept], return_inverse=True)
    triangles = triangles.reshape(-1, 3)
    return Mesh(mesh.points[rows], mesh.normals[rows], mesh.uv[rows], triangles), rows


def _surface(
    f: Callable[[np.ndarray, np.ndarray], tuple], nu: int, nv: int, ru: float, rv: float
) -> Mesh:
    """A surface f(u, v) over the unit square, normals by differences."""
    u, v = np.meshgrid(np.linspace(0, 1, nu + 1), np.linspace(0, 1, nv + 1), indexing="ij")
    points = np.stack(f(u, v), -1)
    e = 1e-3
    du = np.stack(f(u + e, v), -1) - np.stack(f(u - e, v), -1)
    dv = np.stack(f(u, v + e), -1) - np.stack(f(u, v - e), -1)
    normals = np.cross(du, dv)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-9
    a = (np.arange(nu)[:, None] * (nv + 1) + np.arange(nv)[None]).ravel()
    triangles = np.concatenate(
        [np.stack([a, a + nv + 1, a + nv + 2], 1), np.stack([a, a + nv + 2, a + 1], 1)]
    )
    uv = np.stack([u * ru, v * rv], -1).reshape(-1, 2)
    return Mesh(points.reshape(-1, 3), normals.reshape(-1, 3), uv, triangles)


def lathe(profile: list[tuple[float, float]], sides: int = 12, rv: float = 2) -> Mesh:
    """A surface of revolution about z with flat bands between (radius, z) pairs, upward."""
    parts, n = [], len(profile) - 1
    for k, ((r0, z0), (r1, z1)) in enumerate(pairwise(profile)):

        def band(u, v, r0=r0, r1=r1, z0=z0, z1=z1):  # type: ignore[no-untyped-def]
            r = r0 + (r1 - r0) * v
            return r * np.cos(TAU * u), r * np.sin(TAU * u), z0 + (z1 - z0) * v + 0 * u

        mesh = _surface(band, sides, 1, 2, rv / n)
        parts.append(
            Mesh(mesh.points, mesh.normals, mesh.uv + np.array([0, k * rv / n]), mesh.triangles)
        )
    return join(*parts)


def sphere(radius: float, nu: int = 14, nv: int = 8) -> Mesh:
    def f(u, v):  # type: ignore[no-untyped-def]
        r, z = radius * np.sin(np.pi * v), -radius * np.cos(np.pi * v)
        return r * np.cos(TAU * u), r * np.sin(TAU * u), z

    return _surface(f, nu, nv, 2, 2)


def torus(ring: float, tube: float, nu: int = 16, nv: int = 7) -> Mesh:
    def f(u, v):  # type: ignore[no-untyped-def]
        r = ring + tube * np.cos(TAU * v)
        return r * np.cos(TAU * u), r * np.sin(TAU * u), tube * np.sin(TAU * v)

    return _surface(f, nu, nv, 4, 1)


def spring(ring: float, tube: float, height: float, turns: int = 3) -> Mesh:
    def f(u, v):  # type: ignore[no-untyped-def]
        r, a = ring + tube * np.cos(TAU * v), TAU * u * turns
        return r * np.cos(a), r * np.sin(a), tube * np.sin(TAU * v) + (u - 0.5) * height

    return _surface(f, 12 * turns, 5, 4 * turns, 1)


def box(x: float, y: float, z: float, repeat: float = 1) -> Mesh:
    """A box of half sizes x, y, z about the origin."""
    parts, half = [], np.array([x, y, z], float)
    for axis in range(3):
        for sign in (1.0, -1.0):
            normal, a, b = np.zeros((3, 3))
            normal[axis] = sign
            a[(axis + 1) % 3] = half[(axis + 1) % 3]
            b[(axis + 2) % 3] = half[(axis + 2) % 3] * sign
            centre = normal * half[axis]
            points = np.array([centre - a - b, centre + a - b, centre + a + b, centre - a + b])
            uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float) * repeat
            parts.append(
                Mesh(points, np.tile(normal, (4, 1)), uv, np.array([(0, 1, 2), (0, 2, 3)]))
            )
    return join(*parts)


def quad(corners: list[tuple[float, float, float]], u: float, v: float) -> Mesh:
    """A rectangle, counter-clockwise from the side it is seen from."""
    points = np.array(corners, float)
    normal = np.cross(points[1] - points[0], points[3] - points[0])
    normal /= np.linalg.norm(normal)
    uv = np.array([[0, 0], [u, 0], [u, v], [0, v]], float)
    return Mesh(points, np.tile(normal, (4, 1)), uv, np.array([(0, 1, 2), (0, 2, 3)]))


def disc(radius: float, sides: int = 16) -> Mesh:
    """A disc in the plane z = 0, seen from above."""
    angles = np.arange(sides) * TAU / sides
    ring = np.stack([np.cos(angles), np.sin(angles), np.zeros(sides)], 1)
    points = np.concatenate([np.zeros((1, 3)), ring * radius])
    k = np.arange(sides)
    triangles = np.stack([np.zeros(sides, int), k + 1, (k + 1) % sides + 1], 1)
    uv = points[:, :2] / (2 * radius) + 0.5
    return Mesh(points, np.tile([0.0, 0, 1], (sides + 1, 1)), uv, triangles)


def _cylinder(radius: float, half: float, sides: int = 14) -> Mesh:
    return lathe([(0, -half), (radius, -half), (radius, half), (0, half)], sides)


# Names are those of the level's models; the meshes are our own, about 44 units across.
SHAPES: dict[str, Callable[[], Mesh]] = {
    "barbell": lambda: join(
        sphere(11, 12, 6).moved(z=-13), sphere(11, 12, 6).moved(z=13), _cylinder(4, 8, 8)
    ),
    "coil": lambda: spring(15, 4, 34),
    "cone": lambda: lathe([(0, -20), (20, -20), (0, 24)], 14),
    "crossbar": lambda: join(box(23, 6, 6), box(6, 6, 23)),
    "cube": lambda: box(17, 17, 17),
    "cylinder": lambda: _cylinder(15, 21),
    "doubleprism": lambda: lathe([(0, -25), (18, 0), (0, 25)], 4),
    "glowball": lambda: join(sphere(13, 12, 7), torus(21, 2, 16, 5), torus(21, 2, 16, 5).turned()),
    "potcone": lambda: lathe([(0, -22), (9, -22), (9, -2), (21, -2), (0, 24)], 14),
    "prismjack": lambda: join(
        lathe([(0, -24), (9, 0), (0, 24)], 4),
        lathe([(0, -24), (9, 0), (0, 24)], 4).turned(),
        lathe([(0, -24), (9, 0), (0, 24)], 4).turned().turned(),
    ),
    "sphere": lambda: sphere(21),
    "toroid": lambda: torus(16, 7).turned(),
}
