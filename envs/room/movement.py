"""How a player moves in one engine frame: Quake III's public movement model, for N players at once.

Units: DMLab's for length, seconds, radians. Friction 6 (at least as for 100 units a second), acceleration 10 on the
ground and 1 in the air, gravity 800; at the end of a frame velocities are whole numbers, as the engine keeps them.
"""

from __future__ import annotations

import numpy as np

FRAME_SECONDS = np.array([0.014, 0.017, 0.017])  # of the first, second and third frame, and so on
SPEED, STOP_SPEED, FRICTION, GRAVITY = 320.0, 100.0, 6.0, 800.0
GROUND_ACCELERATION, AIR_ACCELERATION = 10.0, 1.0


def apply_friction(velocity: np.ndarray, friction: np.ndarray) -> np.ndarray:
    """Velocities [2, N] after a frame's friction: [N], `FRICTION` times its seconds on the ground, 0 in the air."""
    vx, vy = velocity
    speed = np.sqrt(vx * vx + vy * vy)
    keep = np.maximum(speed - np.maximum(speed, STOP_SPEED) * friction, 0.0)
    return velocity * (keep / np.maximum(speed, 1e-9))


def accelerate(velocity: np.ndarray, wish: np.ndarray, push: np.ndarray) -> np.ndarray:
    """Velocities [2, N] pushed towards full speed along a unit vector [2, N], or unchanged where it is zero.

    `push` [N] is the most that a frame adds: the acceleration times `SPEED` times its seconds. Only the speed along
    the vector counts: who turns while running may become faster than `SPEED`.
    """
    along = velocity * wish
    push = np.maximum(np.minimum(push, SPEED - (along[0] + along[1])), 0.0)
    return velocity + push * wish


def fall(
    z: np.ndarray, vz: np.ndarray, floor: np.ndarray, seconds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Heights and vertical velocities [N] after a frame in the air, at rest where the floor is reached."""
    later = vz - GRAVITY * seconds
    z = z + (vz + later) * 0.5 * seconds
    landed = z <= floor
    return np.where(landed, floor, z), np.where(landed, 0.0, np.rint(later))
