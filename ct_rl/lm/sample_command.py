"""`python -m ct_rl.lm sample RUN`: text streamed to the terminal, or a WAV file, from a prompt or a file."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from tyro.conf import Positional

from ct_rl.command_line import parse
from ct_rl.errors import DONE, UserError
from ct_rl.lm import audio
from ct_rl.lm.config import Count
from ct_rl.lm.run import load_model
from ct_rl.lm.sampling import decoded, sample
from ct_rl.lm.text_files import decode
from ct_rl.lm.trainer import pick_device
from ct_rl.lm.vocabulary import Bytes, MuLaw, Vocabulary, Words
from ct_rl.plain_files import require_writable
from ct_rl.reader import Text
from ct_rl.unread import is_unread

PROG = "ct_rl.lm sample"
_START = "\n"


@dataclass
class Arguments:
    """Let a trained model go on from a prompt."""

    run: Positional[Text]
    """Run folder."""
    prompt: str | None = None
    """Text to go on from; a line's end where absent."""
    prompt_file: Text | None = None
    """File to go on from: text, or sound for a model of sound."""
    length: Count = 500
    """Tokens to draw."""
    temperature: Annotated[float, Ge(0), Le(1e6)] = 1.0
    """Below 1 the likely ones come more often, above 1 the unlikely; 0 always the likeliest."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.98
    """Nucleus: the likeliest tokens with this probability together."""
    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 0
    """Of the draws."""
    out: Text | None = None
    """WAV file to write, for a model of sound."""
    which: Literal["best", "last"] = "best"
    """Which checkpoint."""
    device: Text = "auto"
    """cpu, cuda, or auto."""


def command(argv: list[str]) -> int:
    """Read the flags and sample."""
    flags = parse(Arguments, argv, prog=PROG)
    model, vocabulary, _, _ = load_model(Path(flags.run), pick_device(flags.device), flags.which)
    if isinstance(vocabulary, MuLaw) and flags.out is None:
        raise UserError("this run models sound: give --out FILE.wav")
    if flags.out is not None and not isinstance(vocabulary, MuLaw):
        raise UserError("--out is for models of sound: this run's text goes to the terminal")
    if flags.prompt is not None and flags.prompt_file is not None:
        raise UserError("--prompt and --prompt-file are two beginnings: give one")
    if flags.prompt is not None and isinstance(vocabulary, MuLaw):
        raise UserError("--prompt is text, and this run models sound: give --prompt-file FILE.wav")
    if flags.out is not None:
        require_writable(Path(flags.out), "--out")
    said = _START if flags.prompt is None else flags.prompt
    prompt = _prompt(said, flags.prompt_file, vocabulary)
    tokens = sample(
        model,
        torch.from_numpy(prompt.astype(np.int64)).to(next(model.parameters()).device),
        flags.length,
        temperature=flags.temperature,
        top_p=flags.top_p,
        seed=flags.seed,
    )
    if isinstance(vocabulary, MuLaw):
        levels = np.fromiter(tokens, np.uint8)
        audio.write(Path(str(flags.out)), audio.linear(levels), vocabulary.sample_rate)
        print(
            f"{flags.out}: {len(levels) / vocabulary.sample_rate:.2f} s at {vocabulary.sample_rate} Hz"
        )
        return DONE
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may not have every character
    if flags.prompt_file is None:
        print(said, end=" " if isinstance(vocabulary, Words) and said.strip() else "")
    for text in decoded(tokens, vocabulary):
        print(text, end="", flush=True)
        if is_unread(sys.stdout):
            break
    print()
    return DONE


def _prompt(text: str, file: str | None, vocabulary: Vocabulary) -> np.ndarray:
    """The tokens to go on from: a file's where there is one, or the text's."""
    if isinstance(vocabulary, MuLaw):
        if file is None:
            return audio.mu_law(np.zeros(1, np.float32))
        path = Path(file)
        if not path.is_file():
            raise UserError(f"there is no file {path}: give a WAV or FLAC file as --prompt-file")
        return audio.mu_law(audio.read(path, vocabulary.sample_rate))
    # A terminal's bytes that are no text of its encoding come as surrogates, and are bytes again here.
    content = text.encode(errors="surrogateescape")
    if file is not None:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror}") from None
    if isinstance(vocabulary, Bytes):
        tokens = np.frombuffer(content, np.uint8)
    else:
        tokens = vocabulary.encode(decode(content, file or "--prompt"))
    if not len(tokens):
        raise UserError("the prompt is empty: give at least one token to go on from")
    return tokens
