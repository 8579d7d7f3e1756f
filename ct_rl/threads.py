"""How the threads of one operation wait for each other."""

from __future__ import annotations

import os


def let_threads_sleep() -> None:
    """Has OpenMP's threads sleep while they wait, unless `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` says how they should.

    By default they wait by spinning, which is soonest where every thread has a core. Where another program has one of
    the cores, each operation waits for a thread that is not running, and the others spin away the time in which it
    could be: the room's recipe took 2 to 8 times as long. It holds where torch is not loaded yet.
    """
    if "GOMP_SPINCOUNT" not in os.environ:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
