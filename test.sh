#!/usr/bin/env bash
# Sets everything up and passes the tests; arguments go to pytest.
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh
set_up
exec .venv/bin/python -m pytest "$@"
