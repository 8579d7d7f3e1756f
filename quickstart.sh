#!/usr/bin/env bash
# Sets everything up, trains a memory agent for about 5 minutes, and films it.
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh
set_up
name=runs/quickstart-$(date +%Y%m%d-%H%M%S)
.venv/bin/python -m ct_rl.train --env dmlab_rooms_select --rate 4 --minutes "${MINUTES:-4.5}" --run-dir "$name" "$@"
.venv/bin/python -m ct_rl.evaluate "$name" --episodes "${EPISODES:-4}" --video
cat <<MESSAGE

curves      $name/curves.png
checkpoint  $name/checkpoints
video       $name/videos
train on    .venv/bin/python -m ct_rl.train --resume $name --steps 20000000
MESSAGE
