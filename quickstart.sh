#!/usr/bin/env bash
# Sets everything up, shows a trained agent, trains one for about five minutes, evaluates it and films it.
# Further words go to the training: ./quickstart.sh --minutes 30 --memory lstm
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. scripts/setup.sh
set_up
# Torch's threads wait for each other: where anything else runs, one is several times as fast as two.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

say "a trained agent plays: python -m ct_rl.evaluate pretrained:rooms_select --episodes 20 --video --out runs/pretrained"
.venv/bin/python -m ct_rl.evaluate pretrained:rooms_select --episodes 20 --video --video-episodes 1 --out runs/pretrained

run="runs/quickstart_$(date +%Y%m%d-%H%M%S)"
say "training: python -m ct_rl.train --env dmlab_rooms_select --rate 4 --minutes 4.5 --run-dir $run $*"
status=0
.venv/bin/python -m ct_rl.train --env dmlab_rooms_select --rate 4 --minutes 4.5 --run-dir "$run" "$@" || status=$?
[ "$status" = 0 ] || exit "$status"

say "evaluating: python -m ct_rl.evaluate $run --episodes 20 --video"
.venv/bin/python -m ct_rl.evaluate "$run" --episodes 20 --video

say "done"
echo "curves       $run/curves.png"
echo "checkpoint   $(ls -d "$run"/checkpoints/step_* | tail -n 1)"
echo "video        $(ls "$run"/videos/*.mp4 | tail -n 1)"
echo "trained agent's video  $(ls runs/pretrained/videos/*.mp4 | tail -n 1)"
echo "A few minutes teach little, an hour teaches the level; go on with:"
echo "  source .venv/bin/activate"
echo "  python -m ct_rl.train --resume $run --minutes 60"
