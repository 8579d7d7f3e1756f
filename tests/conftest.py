"""What all tests share: which of them are slow, and that Ray's processes are as urgent as others."""

import os

import pytest

# Ray starts its workers at niceness 15, and beside another test on two cores they would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")

# Whoever uses one of these starts Ray, a run, or another program.
_SLOW_FIXTURES = {"cluster", "build", "trained", "trained_on_lab", "own"}
_SLOW_FILES = (
    "tests/cli/test_train.py",
    "tests/cli/test_evaluate.py",
    "tests/cli/test_experiment.py",
    "tests/cli/test_processes.py",
    "tests/cli/test_third_party.py",
    "tests/envs/test_third_party.py",
    "tests/envs/test_conformance.py",
    "tests/envs/test_deepmind_lab.py",
    "tests/envs/test_lab_double.py",
    "tests/envs/test_lab_processes.py",
    "tests/envs/test_lost_worlds.py",
    "tests/agents/test_old_stack.py",
    "tests/lm/test_commands.py",
)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "slow: starts other programs or takes long; leave out with -m 'not slow'"
    )


def pytest_collection_modifyitems(items):
    for item in items:
        named = item.nodeid.startswith(_SLOW_FILES)
        if named or _SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
