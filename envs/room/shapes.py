"""Meshes and textures of the room task: 36 objects (12 shapes in 3 variants), walls, floor, pad, sky.

A mesh is (vertices [V, 8]: position, normal, texture coordinates; triangles [F, 3]).
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from itertools import pairwise

import numpy as np

Mesh = tuple[np.ndarray, np.ndarray]
SHAPE_NAMES = (
    "barbell",
    "coil",
    "cone",
    "crossbar",
    "cube",
    "cylinder",
    "doubleprism",
    "glowball",
    "potcone",
    "prismjack",
    "sphere",
    "toroid",
)


def surface(
    point: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    along: int,
    across: int,
) -> Mesh:
    """A mesh of `point(u, v)` over the unit square, with normals from its own differences."""
    u, v = np.meshgrid(np.linspace(0, 1, along + 1), np.linspace(0, 1, across + 1), indexing="ij")
    p = np.stack(point(u, v), -1)
    step = 1e-3
    by_u = np.stack(point(u + step, v), -1) - np.stack(point(u - step, v), -1)
    by_v = np.stack(point(u, v + step), -1) - np.stack(point(u, v - step), -1)
    normal = np.cross(by_u, by_v)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9
    vertices = np.concatenate([p, normal, u[..., None] * 2, v[..., None]], -1).reshape(-1, 8)
    corner = (np.arange(along)[:, None] * (across + 1) + np.arange(across)).ravel()
    right = corner + across + 1
    faces = np.concatenate(
        [np.stack([corner, right, right + 1], 1), np.stack([corner, right + 1, corner + 1], 1)]
    )
    return vertices, faces


def joined(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in meshes[:-1])])
    faces = [f + offset for (_, f), offset in zip(meshes, offsets, strict=True)]
    return np.concatenate([v for v, _ in meshes]), np.concatenate(faces)


def sphere(radius: float, z: float = 0.0) -> Mesh:
    def point(u, v):
        ring = radius * np.sin(np.pi * v)
        angle = 2 * np.pi * u
        return ring * np.cos(angle), ring * np.sin(angle), z - radius * np.cos(np.pi * v)

    return surface(point, 12, 8)


def torus(radius: float, tube: float, z: float = 0.0) -> Mesh:
    def point(u, v):
        a, b = 2 * np.pi * u, 2 * np.pi * v
        ring = radius + tube * np.cos(b)
        return ring * np.cos(a), ring * np.sin(a), z + tube * np.sin(b)

    return surface(point, 14, 7)


def turned(profile: list[tuple[float, float]], sides: int = 12) -> Mesh:
    """A profile of (radius, height), from below, turned about the vertical; corners stay sharp."""
    bands = []
    for (r0, z0), (r1, z1) in pairwise(profile):

        def point(u, v, r0=r0, r1=r1, z0=z0, z1=z1):
            radius, angle = r0 + (r1 - r0) * v, 2 * np.pi * u
            return radius * np.cos(angle), radius * np.sin(angle), z0 + (z1 - z0) * v

        bands.append(surface(point, sides, 1))
    return joined(*bands)


def box(x: float, y: float, z: float) -> Mesh:
    """A box of half sizes x, y, z."""
    half = np.array([x, y, z])
    sides = []
    for axis in range(3):
        for sign in (1.0, -1.0):
            a, b, n = np.zeros(3), np.zeros(3), np.zeros(3)
            n[axis] = sign
            a[(axis + 1) % 3] = half[(axis + 1) % 3]
            b[(axis + 2) % 3] = half[(axis + 2) % 3] * sign
            centre = n * half
            corners = np.array([centre - a - b, centre + a - b, centre + a + b, centre - a + b])
            uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
            vertices = np.concatenate([corners, np.tile(n, (4, 1)), uv], 1)
            sides.append((vertices, np.array([[0, 1, 2], [0, 2, 3]])))
    return joined(*sides)


def object_mesh(shape: int) -> Mesh:
    """The mesh of a shape by its place in `SHAPE_NAMES`, about 48 units tall."""
    return _SHAPES[shape]()


_SHAPES: tuple[Callable[[], Mesh], ...] = (
    lambda: joined(sphere(13, -14), sphere(13, 14), turned([(5, -10), (5, 10)], 8)),
    lambda: joined(torus(16, 5, -15), torus(16, 5), torus(16, 5, 15)),
    lambda: turned([(0, -22), (22, -22), (0, 24)]),
    lambda: joined(box(24, 7, 7), box(7, 7, 24)),
    lambda: box(18, 18, 18),
    lambda: turned([(0, -22), (17, -22), (17, 22), (0, 22)]),
    lambda: turned([(0, -26), (20, 0), (0, 26)], 5),
    lambda: joined(sphere(15), torus(21, 4)),
    lambda: turned([(0, -22), (10, -22), (10, 0), (22, 0), (0, 24)]),
    lambda: joined(box(24, 6, 6), box(6, 24, 6), box(6, 6, 24)),
    lambda: sphere(22),
    lambda: torus(17, 8),
)


def object_texture(index: int) -> np.ndarray:
    """uint8 [16, 16, 3]: a colour of its own, and the variant's pattern in few large fields."""
    shape, variant = divmod(index, 3)
    # The walls are blue: objects take the other hues.
    hue = (0.70 + 0.82 * ((shape / 12 + variant / 3) % 1.0)) % 1.0
    dark = shape % 2 == 1
    main = np.array(colorsys.hsv_to_rgb(hue, 1.0 if dark else 0.85, 0.8 if dark else 1.0)) * 255
    second = (np.array([255, 255, 255]), np.array([25, 25, 30]), main * 0.45)[variant]
    y, x = np.mgrid[:16, :16]
    mask = ((y // 8) % 2, (x // 4) % 2, ((x // 8) + (y // 8)) % 2)[variant][..., None]
    return np.where(mask, second, main).astype(np.uint8)


def tiles(colour: tuple[int, int, int], seams: int, seed: int, size: int = 64) -> np.ndarray:
    """uint8 [size, size, 3]: a plain surface with some grain and darker seams every `seams` pixels."""
    grain = np.random.default_rng(seed).normal(0, 7, (size, size, 1))
    texture = np.array(colour, float) + grain
    seam = np.arange(size) % seams < 2
    texture[seam] *= 0.6
    texture[:, seam] *= 0.6
    return texture.clip(0, 255).astype(np.uint8)
