#!/bin/bash
# The container's command in an indexed Job (kubernetes.yaml). Indexes count from 0, shards from 1.
set -euo pipefail
: "${PROMPTS:?the input}" "${MODEL:?PROVIDER/MODEL}" "${RESULTS:?a folder on a volume that all pods see}" "${SHARDS:?completions of the Job}"
exec llmbatch run "$PROMPTS" -m "$MODEL" -o "$RESULTS/" \
  --shard "$((JOB_COMPLETION_INDEX + 1))/$SHARDS" --progress json "$@"
