#!/bin/sh
# An array job over one CSV: sbatch slurm.sh data.csv results.jsonl
# The folder is one that all nodes see; the key stands in its .env (mode 600).
# The number of tasks is in two places: --array=1-4 and --shard .../4.
#SBATCH --array=1-4
#SBATCH --output=shard-%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
exec difyexec run -i "$1" -o "$2" --shard "$SLURM_ARRAY_TASK_ID/4" --progress plain
