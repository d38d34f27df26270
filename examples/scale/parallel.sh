#!/bin/bash
# GNU parallel, also over ssh (--sshlogin): N processes, each one part. Without parallel, plain shell jobs do the same.
set -euo pipefail
: "${PROMPTS:?the input}" "${MODEL:?PROVIDER/MODEL}" "${RESULTS:?a folder that all machines see}"
N="${N:-4}"
command=(llmbatch run "$PROMPTS" -m "$MODEL" -o "$RESULTS/" --progress none)
if command -v parallel > /dev/null; then
  exec parallel --halt soon,fail=1 "${command[@]}" --shard {}/"$N" "$@" ::: $(seq "$N")
fi
jobs=()
for i in $(seq "$N"); do
  "${command[@]}" --shard "$i/$N" "$@" &
  jobs+=($!)
done
code=0
for job in "${jobs[@]}"; do
  wait "$job" || code=$?
done
exit "$code"
