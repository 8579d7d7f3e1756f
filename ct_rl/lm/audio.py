"""Sound: WAV and FLAC files to mu-law samples and back."""

from __future__ import annotations

import io
import math
import wave
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ct_rl.errors import UserError
from ct_rl.plain_files import write_atomically

_MU = 255.0
_SUFFIXES = (".wav", ".flac")
_MOST_TAPS = 2**22
_TAPS = 16  # zero crossings of the resampling filter on each side


def is_sound(path: Path) -> bool:
    """Whether a file's name says that it is sound."""
    return path.suffix.lower() in _SUFFIXES


def mu_law(samples: np.ndarray) -> np.ndarray:
    """Samples in [-1, 1] as uint8: 255 levels of the curve sign(x) ln(1 + 255 |x|) / ln 256 and the middle."""
    x = np.clip(samples, -1, 1)
    curve = np.sign(x) * np.log1p(_MU * np.abs(x)) / math.log1p(_MU)
    return np.round((curve + 1) / 2 * _MU).astype(np.uint8)


def linear(levels: np.ndarray) -> np.ndarray:
    """`mu_law` undone, float32 in [-1, 1]."""
    curve = levels.astype(np.float64) / _MU * 2 - 1
    return (np.sign(curve) * np.expm1(np.abs(curve) * math.log1p(_MU)) / _MU).astype(np.float32)


def read(path: Path, sample_rate: int) -> np.ndarray:
    """A file's samples, float32 [N] in [-1, 1], all channels' mean, at `sample_rate` [Hz].

    Raises:
        UserError: for a file that is no sound, is empty, or was recorded at less than `sample_rate`.
    """
    samples, rate = _read_wave(path) if path.suffix.lower() == ".wav" else _read_by_soundfile(path)
    if not len(samples):
        raise UserError(f"{path} holds no samples: leave it out")
    if rate < 1:
        raise UserError(f"{path} names a rate of {rate} Hz: it is damaged, leave it out")
    if rate < sample_rate:
        raise UserError(
            f"{path} was recorded at {rate} Hz, {sample_rate} Hz cannot be made of it: "
            f"give --sample-rate {rate} or less"
        )
    if _taps(rate, sample_rate) > _MOST_TAPS:
        near = max(round(sample_rate, -2), 100)
        raise UserError(
            f"{path} was recorded at {rate} Hz, and {sample_rate} Hz has too little in common with that: "
            f"give --sample-rate {near}, say"
        )
    return resample(samples.mean(1), rate, sample_rate)


def _taps(rate: int, target: int) -> int:
    """How many numbers the filters of `resample` are."""
    common = math.gcd(rate, target)
    up, down = target // common, rate // common
    return up * (2 * math.ceil(_TAPS * down / up) + down + 1)


def resample(samples: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Samples at a lower rate, by a windowed sinc that cuts at half the target rate (J. O. Smith's resampling)."""
    if rate == target:
        return samples.astype(np.float32)
    common = math.gcd(rate, target)
    up, down = target // common, rate // common
    width = math.ceil(_TAPS * down / up)  # of the filter, in input samples each side
    phases = np.arange(up)[:, None] * down / up
    places = np.arange(-width, width + down + 1)[None]
    away = (places - phases) * up / down  # in output samples
    taps = np.sinc(away) * np.where(
        np.abs(away) < _TAPS, np.cos(np.pi * away / (2 * _TAPS)) ** 2, 0
    )
    taps /= taps.sum(1, keepdims=True)
    x = torch.from_numpy(samples.astype(np.float32))[None, None]
    filters = torch.from_numpy(taps.astype(np.float32))[:, None]
    y = F.conv1d(F.pad(x, (width, width + down)), filters, stride=down)
    count = len(samples) * target // rate
    return y[0].T.flatten()[: max(count, 1)].numpy()


def write(path: Path, samples: np.ndarray, sample_rate: int) -> None:
    """A WAV file of 16 bits, one channel."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    write_atomically(path, buffer.getvalue())


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path), "rb") as file:
            width, channels = file.getsampwidth(), file.getnchannels()
            rate, count = file.getframerate(), file.getnframes()
            content = file.readframes(count)
    except (wave.Error, EOFError) as error:
        if str(error).startswith("unknown"):  # floats, or a header with more to say
            return _read_by_soundfile(path)
        raise UserError(
            f"{path} is no WAV file of plain samples ({str(error) or 'it ends early'})"
        ) from None
    if not 1 <= width <= 4:
        raise UserError(f"{path} has samples of {8 * width} bits, 8 to 32 can be read: convert it")
    if len(content) < count * width * channels:
        raise UserError(
            f"{path} ends early: {len(content):,} bytes of samples, not all that it names"
        )
    if width == 1:  # unsigned, alone among the widths
        values = np.frombuffer(content, np.uint8).astype(np.float32) - 128
    else:
        # Each sample's bytes as the upper ones of an int32.
        parts = np.zeros((count * channels, 4), np.uint8)
        parts[:, 4 - width :] = np.frombuffer(content, np.uint8).reshape(-1, width)
        values = parts.view("<i4")[:, 0].astype(np.float32) / 2.0 ** (8 * (4 - width))
    return (values / 2.0 ** (8 * width - 1)).reshape(-1, channels), rate


def _read_by_soundfile(path: Path) -> tuple[np.ndarray, int]:
    """FLAC, and WAV of other than plain samples."""
    try:
        import soundfile
    except ImportError:
        raise UserError(
            f"{path.name} needs the package soundfile: pip install 'ct_rl[soundfile]', "
            "or give WAV files of plain samples (PCM)"
        ) from None
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read as sound: {error}") from None
    return samples, int(rate)
