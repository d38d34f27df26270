#!/bin/bash
#SBATCH --job-name=llmbatch
#SBATCH --array=1-8
#SBATCH --cpus-per-task=1
#SBATCH --requeue
# sbatch --export=ALL,PROMPTS=prompts.jsonl,MODEL=openai/gpt-5-mini,RESULTS=results slurm.sh
# Task I of N sends part I of N. A task that is requeued goes on; so does the same command with another --array.
set -euo pipefail
: "${PROMPTS:?the input}" "${MODEL:?PROVIDER/MODEL}" "${RESULTS:?a folder that all nodes see}"
exec llmbatch run "$PROMPTS" -m "$MODEL" -o "$RESULTS/" \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --progress plain "$@"
