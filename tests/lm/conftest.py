import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ct_rl.lm import __main__ as lm
from ct_rl.lm import corpus
from ct_rl.lm.vocabulary import Bytes

ROOT = Path(__file__).parents[2]
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "window": 8, "memory": 8}
SMALL = [
    *("--preset", "tiny", "--batch", "4", "--length", "16", "--warmup", "2", "--eval-every", "20"),
    *(
        "--eval-tokens",
        "256",
        "--checkpoint-every",
        "10",
        "--report-every",
        "10",
        "--device",
        "cpu",
    ),
    *("--memory-option", "d_model=16", "n_layers=1", "n_heads=2", "d_ff=32", "window=8"),
    *("memory=8", "compressed=8"),
]


def environment(**extra):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **extra}


def command(*argv, cwd=None, **extra):
    """Run `python -m ct_rl.lm ...`: status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "ct_rl.lm", *map(str, argv)],
        cwd=cwd or ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def here(*argv):
    """The same in this process: the exit status; what a person can mend raises UserError."""
    return lm.command([str(word) for word in argv])


def text_corpus(size=4_000, seed=0, name="letters"):
    """Bytes of few letters, in documents of 100."""
    tokens = np.random.default_rng(seed).choice(np.frombuffer(b"abcd efg", np.uint8), size)
    return corpus.from_array(tokens, np.arange(0, size, 100), Bytes(), name)


@pytest.fixture
def letters():
    return text_corpus()


@pytest.fixture(scope="session")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "text.txt"
    path.write_bytes(text_corpus(20_000).tokens["train"].tobytes())
    return path
