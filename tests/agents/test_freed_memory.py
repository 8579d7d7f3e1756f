"""What a learner frees stays in its process: large tensors come without fresh pages."""

import os
import platform
import subprocess
import sys

import pytest

from ct_rl.freed_memory import _OWN_SETTINGS, ARENAS

PROGRAM = """
import resource, sys, threading, torch
from ct_rl.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.zeros(80 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def print_faults():
    for _ in range(4):
        faults()  # until what is kept lies in one piece: what else is allocated may divide it at first
    print(int(kept), each_time, faults())

each_time, kept = faults(), keep_freed_memory()
if "thread" in sys.argv:
    learner = threading.Thread(target=print_faults)
    learner.start()
    learner.join()
else:
    print_faults()
"""


ON_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def run(*words, **settings):
    """Whether memory is kept, and the page faults of eight large tensors before that and after it."""
    mine = {k: v for k, v in os.environ.items() if k not in (*_OWN_SETTINGS, ARENAS)}
    mine |= {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), **settings}
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, env=mine, capture_output=True, text=True, check=True)
    kept, before, after = map(int, done.stdout.split())
    assert before >= 8 * 40  # huge pages of 2 MiB, at the least
    return kept, before, after


@ON_GLIBC
@pytest.mark.parametrize("own", [None, *_OWN_SETTINGS])
def test_large_tensors_come_without_fresh_pages_unless_the_environment_says_how(own):
    mine = {} if own is None else {own: "" if own == "GLIBC_TUNABLES" else "1000000"}
    kept, before, after = run(**mine)
    assert kept == (own is None)
    assert after < before / 10 if kept else after > before / 2


@ON_GLIBC
@pytest.mark.parametrize("arenas", [None, "1", "8"])
def test_so_they_do_in_a_learner_s_thread_unless_threads_are_to_have_heaps_of_their_own(arenas):
    kept, before, after = run("thread", **({} if arenas is None else {ARENAS: arenas}))
    assert kept
    assert after > before / 2 if arenas == "8" else after < before / 10
