"""What a learner frees stays in its process: large tensors come without fresh pages."""

import os
import platform
import subprocess
import sys

import pytest

from ct_rl.freed_memory import _OWN_SETTINGS

PROGRAM = """
import resource, torch
from ct_rl.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(40 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

each_time, kept = faults(), keep_freed_memory()
for _ in range(4):
    faults()  # until what is kept lies in one piece: what else is allocated may divide it at first
print(int(kept), each_time, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("own", [None, *_OWN_SETTINGS])
def test_large_tensors_come_without_fresh_pages_unless_the_environment_says_how(own):
    words = {k: v for k, v in os.environ.items() if k not in _OWN_SETTINGS}
    words |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    if own is not None:
        words[own] = "" if own == "GLIBC_TUNABLES" else "1000000"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=words, capture_output=True, text=True, check=True
    )
    kept, before, after = map(int, done.stdout.split())
    assert kept == (own is None)
    assert before >= 8 * 20  # huge pages of 2 MiB, at the least
    assert after < before / 10 if kept else after > before / 2
