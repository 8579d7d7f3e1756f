"""Evaluation videos: H.264 that browsers play, at a size people can watch, numbers below the picture; and GIFs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np

from ct_rl.errors import RunFailed, one_line
from ct_rl.evaluation import Moment
from ct_rl.plain_files import partial_name

WIDTH, HEIGHT, STRIP = 640, 480, 60  # the least picture, and the text below it [pixels]
LONGEST = 4096  # side of a picture that was scaled up: an encoder has bounds of its own [pixels]
GIF_WIDTH, GIF_FPS, GIF_SECONDS = 800, 4, 12
_END_SECONDS = 0.7
_MEND = (
    "reinstall imageio-ffmpeg, which brings one, or set IMAGEIO_FFMPEG_EXE to one that has libx264"
)


def write(
    path: Path,
    moments: Iterable[Moment],
    fps: float,
    draw: Callable[[Moment], np.ndarray] | None = None,
) -> int:
    """Encode the moments as H.264 (yuv420p, index in front) and return the number of frames.

    `draw` makes a moment's frame, uint8 [H, W, 3] with even sides; `compose` where it is not given. The file appears
    under its name only when it is whole. Raises RunFailed when ffmpeg fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    encoder = None
    count = 0
    size: tuple[int, int] | None = None
    try:
        for moment in moments:
            frame = (draw or compose)(moment)
            if size is not None and frame.shape[1::-1] != size:  # ffmpeg takes one size only
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            size = frame.shape[1], frame.shape[0]
            if encoder is None:
                encoder = _Encoder(partial, size, fps)
            holds = max(1, round(_END_SECONDS * fps)) if moment.last else 1
            for _ in range(holds):
                encoder.add(frame)
                count += 1
        if encoder is None:
            raise RunFailed("there is no frame to film")
        encoder.finish()
        os.replace(partial, path)
    except OSError as error:
        raise RunFailed(_why(path, error)) from error
    finally:
        if encoder is not None:
            encoder.end()
        with contextlib.suppress(OSError):
            partial.unlink()
    return count


def write_gif(path: Path, film: Path) -> None:
    """Makes a small GIF of a film's first seconds, for pages that show no video; replaces `path` when it is whole.

    Raises:
        RunFailed: when ffmpeg fails.
    """
    partial = partial_name(path)
    scaled = f"fps={GIF_FPS},scale={GIF_WIDTH}:-2:flags=lanczos,split[a][b]"
    palette = "[a]palettegen=max_colors=64:stats_mode=diff[p];[b][p]paletteuse=dither=none"
    inputs = ["-t", f"{GIF_SECONDS}", "-i", str(film)]
    filters = ["-filter_complex", f"{scaled};{palette}", "-loop", "0", "-f", "gif"]
    command = [_ffmpeg(), "-v", "error", "-y", *inputs, *filters, str(partial)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"the GIF '{path}' could not be made: {one_line(done.stderr)[-200:]}")
        os.replace(partial, path)
    except OSError as error:
        raise RunFailed(_why(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _why(path: Path, error: OSError) -> str:
    return f"'{path}' could not be written: {one_line(error)[-200:]}"


def _ffmpeg() -> str:
    """The ffmpeg that is used; raises RunFailed where there is none that runs and writes H.264."""
    try:
        found = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise RunFailed(f"there is no ffmpeg: {_MEND}") from error
    encoders = _encoders(found)
    if encoders is None:
        raise RunFailed(f"the ffmpeg '{found}' cannot be run: {_MEND}")
    if "libx264" not in encoders:
        raise RunFailed(f"the ffmpeg '{found}' has no H.264 encoder (libx264): {_MEND}")
    return found


@lru_cache(maxsize=4)
def _encoders(ffmpeg: str) -> str | None:
    """What an ffmpeg says it can write; None where it cannot be run."""
    try:
        words = [ffmpeg, "-hide_banner", "-encoders"]
        said = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.decode(errors="replace")


def compose(moment: Moment) -> np.ndarray:
    """The picture at watching size over a strip of text: uint8 [H, W, 3], both sides even."""
    picture = enlarge(moment.picture)
    height, width = picture.shape[:2]
    frame = np.zeros((height + STRIP, width, 3), np.uint8)
    frame[:height] = picture
    reward = f"{moment.reward:+g}" if moment.reward else "0"
    color = (90, 230, 90) if moment.reward > 0 else (240, 90, 90) if moment.reward < 0 else None
    cells = (
        (f"return {moment.total:g}", None),
        (f"reward {reward}", color),
        (f"step {moment.step}", None),
    )
    for index, (text, tint) in enumerate(cells):
        _text(frame, text, (12 + index * width // 3, height + 24), tint)
    _text(frame, f"action {moment.action}", (12, height + 50), None)
    _text(frame, f"episode {moment.episode}", (12 + 2 * width // 3, height + 50), None)
    return frame


def enlarge(picture: np.ndarray) -> np.ndarray:
    """A picture scaled up by a whole factor to at least 640x480, cut to even sides; raises ValueError for none.

    One that is much longer than wide is scaled to less: its longer side stays within `LONGEST`.
    """
    picture = as_rgb(picture)
    factor = max(-(-WIDTH // picture.shape[1]), -(-HEIGHT // picture.shape[0]))
    factor = max(1, min(factor, LONGEST // max(picture.shape[:2])))
    if factor > 1:
        size = (picture.shape[1] * factor, picture.shape[0] * factor)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST)
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2]


def as_rgb(picture: object) -> np.ndarray:
    """What an environment draws as uint8 [H, W, 3]: grey, RGBA, channels first and floats are converted.

    Raises:
        ValueError: for what is no picture.
    """
    array = None
    if isinstance(picture, np.ndarray | list | tuple):
        with contextlib.suppress(ValueError):  # lists of different lengths
            array = np.asarray(picture)
    if (
        array is None
        or array.dtype.kind not in "uifb"
        or array.ndim not in (2, 3)
        or not array.size
    ):
        kind = type(picture).__name__ if array is None else f"an array {array.dtype} {array.shape}"
        raise ValueError(f"the environment drew {kind}, which is no picture [H, W, 3]")
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[-1] not in (1, 2, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    channels = array.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(f"the environment drew a picture of {channels} channels, not 1, 3 or 4")
    if array.dtype != np.uint8:
        shares = array.dtype.kind in "fb"  # whole numbers are a byte's, however dark the picture is
        array = np.nan_to_num(array.astype(np.float32))
        if shares and array.max() <= 1.0:
            array = array * 255
        array = array.clip(0, 255).astype(np.uint8)
    array = array[..., :3] if channels > 1 else np.repeat(array, 3, -1)
    if min(array.shape[:2]) < 2 or max(array.shape[:2]) > 8192:
        raise ValueError(f"the environment drew a picture of {array.shape[1]}x{array.shape[0]}")
    return np.ascontiguousarray(array)


def _text(
    frame: np.ndarray, text: str, at: tuple[int, int], color: tuple[int, int, int] | None
) -> None:
    white = (235, 235, 235)
    cv2.putText(frame, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, color or white, 1, cv2.LINE_AA)


class _Encoder:
    """An ffmpeg that takes frames of one size, uint8 [H, W, 3], and whose own word says whether the film is whole."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float):
        frames = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-s",
            "{}x{}".format(*size),
            "-r",
            f"{fps:g}",
        ]
        coded = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23", "-preset", "medium"]
        command = [_ffmpeg(), "-v", "error", "-y", *frames, "-i", "-", "-an", *coded]
        self._path = path
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, "-movflags", "+faststart", "-f", "mp4", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            process_group=0,  # Ctrl-C is ours to answer
        )

    def add(self, frame: np.ndarray) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            raise self._failed() from None

    def finish(self) -> None:
        """Until the film is whole; raises RunFailed where ffmpeg says that it is not."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait():
            raise self._failed()

    def end(self) -> None:
        """Ends what `finish` has not."""
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()
        self._said.close()

    def _failed(self) -> RunFailed:
        status = self._process.wait()
        self._said.seek(0)
        said = one_line(self._said.read().decode(errors="replace"))[-200:]
        where = self._path.parent
        return RunFailed(
            f"the film could not be written into '{where}': ffmpeg ended with status {status}: {said}"
        )
