#!/usr/bin/env bash
# Sets everything up and runs the tests. Further words go to pytest: ./run_tests.sh tests/memory -k reset
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/setup.sh
set_up
.venv/bin/python -m pytest "$@"
