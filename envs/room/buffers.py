"""Offscreen drawing with Panda3D: which renderer, and one buffer that holds a tile for each picture."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import subprocess
import sys
from glob import glob
from typing import Any

import cv2
import numpy as np

from envs.errors import MissingDependencyError

RENDERERS = ("cpu", "gpu", "auto")
_LIBRARIES = {"cpu": "p3tinydisplay", "gpu": "p3headlessgl"}
_CONFIG = """load-display {library}
window-type offscreen
audio-library-name null
sync-video 0
notify-level error
notify-level-x11display fatal
notify-level-egldisplay fatal
garbage-collect-states 0
transform-cache 0
gl-coordinate-system default
"""
_GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/dri/renderD*")
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")  # EGL drivers that draw on the CPU
_PROBE_SECONDS = 60
_MAX_ROWS = 8192  # pixels; more tiles open another column
# OpenCV shares more pixels than these among a thread for each core, and those then spin, waiting for the next.
_PIXELS_OF_ONE_THREAD = 1 << 16
_pipes: dict[str, Any] = {}


def panda() -> Any:
    """Panda3D's core module; raises MissingDependencyError where it is not installed."""
    try:
        from panda3d import core
    except ImportError as error:
        raise MissingDependencyError(
            "the embedded room task needs panda3d: pip install panda3d"
        ) from error
    return core


def choose_renderer(renderer: str) -> str:
    """Opens the renderer that `renderer` stands for here; returns "cpu" or "gpu".

    "auto" is the GPU where EGL draws on hardware, else the CPU; the GPU it chose is not opened yet.

    Raises:
        ValueError: for another name.
        MissingDependencyError: where a library that the renderer loads is missing.
    """
    if renderer not in RENDERERS:
        raise ValueError(f"unknown renderer {renderer!r}: choose one of {', '.join(RENDERERS)}")
    if renderer == "auto" and _gpu_draws():
        return "gpu"  # opened at first use: a fork before then inherits no driver
    renderer = "cpu" if renderer == "auto" else renderer
    open_pipe(renderer)
    return renderer


def open_pipe(renderer: str) -> Any:
    """Panda3D's pipe of a renderer ("cpu" or "gpu"), opened once in a process."""
    if renderer not in _pipes:
        core = panda()
        if renderer == "gpu":
            _triton_first()
        core.loadPrcFileData("ct_rl room", _CONFIG.format(library=_LIBRARIES[renderer]))
        selection = core.GraphicsPipeSelection.getGlobalPtr()
        pipe = selection.makeModulePipe(_LIBRARIES[renderer])
        if pipe is None and renderer == "cpu":
            raise MissingDependencyError(
                "Panda3D could not start its software renderer: libX11.so.6 is missing "
                "(Debian package libx11-6)"
            )
        if pipe is None:
            raise MissingDependencyError(
                "renderer 'gpu' needs an EGL driver (libEGL.so.1, Debian package libegl1): "
                "use renderer 'cpu' or 'auto'"
            )
        _pipes[renderer] = pipe
    return _pipes[renderer]


def _triton_first() -> None:
    """Loads triton where it is installed.

    Torch loads it with a process's first optimiser. Triton and Mesa's drivers bring an LLVM each: the other order ends
    the process with a segmentation fault.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("triton")


def _gpu_draws() -> bool:
    """Whether EGL draws on real hardware here."""
    if not any(glob(pattern) for pattern in _GPU_DEVICES):
        return False
    driver = _gpu_driver().lower()
    return bool(driver) and not any(name in driver for name in _SOFTWARE)


@functools.cache
def _gpu_driver() -> str:
    """Name of the driver that draws through EGL, "" for none; asked in a process of its own, which may crash."""
    words = [sys.executable, "-c", "from envs.room import buffers; buffers.print_driver()"]
    paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        done = subprocess.run(
            words,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines and done.returncode == 0 else ""


def print_driver() -> None:
    """Prints the name of the driver that draws through EGL; raises where there is none."""
    pipe = open_pipe("gpu")
    tiles = Tiles(panda().GraphicsEngine(pipe), pipe, 1, 4, 4)
    print(tiles.driver())


class Tiles:
    """One offscreen buffer of N tiles, each seen by a camera of its own, all drawn in one pass.

    Args:
        engine, pipe: Panda3D's, the pipe from `open_pipe`.
        count: N.
        height, width: of a tile, in pixels.

    Raises:
        RuntimeError: where the renderer refuses a buffer of this size.
    """

    def __init__(self, engine: Any, pipe: Any, count: int, height: int, width: int) -> None:
        core = panda()
        self.count, self.height, self.width = count, height, width
        # One column where it fits: side by side, a tile's polygons can reach some pixels into the next.
        self._rows = min(count, max(1, _MAX_ROWS // height))
        self._columns = -(-count // self._rows)
        size = self._columns * width, self._rows * height
        properties = core.FrameBufferProperties()
        properties.setRgbColor(True)
        properties.setRgbaBits(8, 8, 8, 8)
        properties.setDepthBits(24)
        self._engine = engine
        self.window = engine.makeOutput(
            pipe,
            "tiles",
            0,
            properties,
            core.WindowProperties.size(*size),
            core.GraphicsPipe.BFRefuseWindow,
        )
        if self.window is None:
            raise RuntimeError(
                f"the renderer gave no offscreen buffer of {size[0]}x{size[1]} pixels"
            )
        self._texture = core.Texture()
        self.window.addRenderTexture(self._texture, core.GraphicsOutput.RTMCopyRam)
        self.window.setClearColorActive(False)
        self.window.setClearDepthActive(False)
        self._strip = np.empty((max(1, _PIXELS_OF_ONE_THREAD // size[0]), size[0], 4), np.uint8)

    def look(self, i: int, camera: Any, sky: tuple[float, float, float]) -> Any:
        """Shows in tile i what `camera` sees, before a background of colour `sky`; returns the region."""
        column, row = divmod(i, self._rows)
        region = self.window.makeDisplayRegion(
            column / self._columns,
            (column + 1) / self._columns,
            1 - (row + 1) / self._rows,
            1 - row / self._rows,
        )
        region.setCamera(camera)
        region.setClearColorActive(True)
        region.setClearColor((*sky, 1.0))
        region.setClearDepthActive(True)
        return region

    def driver(self) -> str:
        """The name of the graphics driver that draws."""
        self._engine.renderFrame()
        guardian = self.window.getGsg()
        return "" if guardian is None else guardian.getDriverRenderer()

    def colours(self) -> np.ndarray:
        """What was drawn last, RGB uint8 [N, height, width, 3], a fresh array."""
        stored = self._stored()
        out = np.empty((*stored.shape[:2], 3), np.uint8)
        # In strips that stay in a processor's cache from one pass to the other.
        rows, end = len(self._strip), len(out)
        for top in range(0, end, rows):
            part = stored[max(end - top - rows, 0) : end - top]
            upright = cv2.flip(part, 0, dst=self._strip[: len(part)])
            cv2.cvtColor(upright, cv2.COLOR_BGRA2RGB, dst=out[top : top + rows])
        return self._cut(out)

    def greens(self) -> np.ndarray:
        """The green channel of what was drawn last, uint8 [N, height, width, 1], a fresh array."""
        return self._cut(np.ascontiguousarray(self._stored()[::-1, :, 1:2]))

    def _stored(self) -> np.ndarray:
        """The buffer as it is stored: from the bottom up, in BGRA."""
        width, height = self._columns * self.width, self._rows * self.height
        return np.frombuffer(self._texture.getRamImage(), np.uint8).reshape(height, width, 4)

    def _cut(self, image: np.ndarray) -> np.ndarray:
        if self._columns == 1:
            return image.reshape(-1, self.height, self.width, image.shape[-1])
        tiles = image.reshape(self._rows, self.height, self._columns, self.width, image.shape[-1])
        tiles = tiles.transpose(2, 0, 1, 3, 4).reshape(-1, self.height, self.width, image.shape[-1])
        return np.ascontiguousarray(tiles[: self.count])
