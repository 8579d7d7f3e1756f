#!/usr/bin/env bash
# Sets everything up and runs the tests, two files at a time. Further words go to pytest: ./run_tests.sh tests/memory -k reset
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/setup.sh
set_up
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
