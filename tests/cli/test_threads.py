"""How a command's threads wait: asleep, unless the environment says otherwise, as OpenMP itself tells when loaded."""

import os
import re
import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

LOADS_TORCH = "from ct_rl.errors import run_command; run_command(lambda: 0 * bool(__import__('torch')))"  # fmt: skip


@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "1000"}, None),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_environment_says_otherwise(given, waits):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}  # fmt: skip
    environment = {**kept, "PYTHONPATH": str(ROOT), "OMP_DISPLAY_ENV": "verbose", **given}
    done = subprocess.run(
        [sys.executable, "-c", LOADS_TORCH], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this OpenMP does not tell its settings")
    said = re.search(r"OMP_WAIT_POLICY = '(\w*)'", done.stderr)
    if waits is None:
        assert "GOMP_SPINCOUNT = '1000'" in done.stderr
    else:
        assert said is not None and said.group(1) == waits
