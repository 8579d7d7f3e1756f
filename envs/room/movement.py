"""How a player moves in one engine frame: Quake III's public movement model, for N players at once.

Units: DMLab's for length, seconds, radians. Friction 6 (at least as for 100 units a second), acceleration 10 on the
ground and 1 in the air, gravity 800; at the end of a frame velocities are whole numbers, as the engine keeps them.
"""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = np.array([0.014, 0.017, 0.017])  # of the first, second and third frame, and so on
SPEED, STOP_SPEED, FRICTION, GRAVITY = 320.0, 100.0, 6.0, 800.0
GROUND_ACCELERATION, AIR_ACCELERATION = 10.0, 1.0


def apply_friction(
    vx: np.ndarray, vy: np.ndarray, seconds: np.ndarray, on_ground: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities [N] after a frame's friction, which only the ground has."""
    speed = np.sqrt(vx * vx + vy * vy)
    drop = np.maximum(speed, STOP_SPEED) * (FRICTION * seconds) * on_ground
    keep = np.maximum(speed - drop, 0.0) / np.maximum(speed, 1e-9)
    keep[speed < 1e-9] = 1.0
    return vx * keep, vy * keep


def accelerate(
    vx: np.ndarray,
    vy: np.ndarray,
    wish_x: np.ndarray,
    wish_y: np.ndarray,
    seconds: np.ndarray,
    on_ground: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Velocities [N] pushed towards full speed along a unit vector, or unchanged where it is zero.

    Only the speed along that vector counts: who turns while running may become faster than `SPEED`.
    """
    push = np.where(on_ground, GROUND_ACCELERATION, AIR_ACCELERATION) * (SPEED * seconds)
    push = np.maximum(np.minimum(push, SPEED - (vx * wish_x + vy * wish_y)), 0.0)
    return vx + push * wish_x, vy + push * wish_y


def fall(
    z: np.ndarray, vz: np.ndarray, floor: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and vertical velocities [N] after a frame in the air, at rest where the floor is reached."""
    later = vz - GRAVITY * seconds
    z = z + (vz + later) * 0.5 * seconds
    landed = z <= floor
    return np.where(landed, floor, z), np.where(landed, 0.0, np.rint(later))
