#!/bin/sh
# One CSV as an array job: sbatch slurm.sh data.csv results.jsonl
# All nodes must see this folder. The key is in its .env (mode 600).
# The number of tasks is in two places: --array=1-4 and --shard .../4.
#SBATCH --array=1-4
#SBATCH --output=shard-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
difyexec run -i "$1" -o "$2" --shard "$SLURM_ARRAY_TASK_ID/4" --progress plain &
child=$!
trap 'kill -TERM $child' TERM
wait $child; code=$?
if kill -0 $child 2>/dev/null; then wait $child; code=$?; fi
# Exit 3 (some rows failed) completes the task. You decide whether to retry them.
[ $code -eq 3 ] && exit 0
exit $code
