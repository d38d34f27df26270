#!/bin/sh
# Push a notification to a phone by ntfy (https://ntfy.sh, or a server of your own), by curl:
#
#     export NTFY_URL=https://ntfy.sh/a-topic-of-yours
#     llmbatch run prompts.jsonl -m openai/gpt-5-mini --notify 'sh examples/notify/ntfy.sh'
#
# Whoever knows a topic of the public server reads it: choose a name that nobody guesses, and keep it out of the command,
# which the page of a run shows.
set -eu
case "$NOTIFY_EVENT" in
    outage | stopped) priority=high ;;
    *) priority=default ;;
esac
curl --silent --show-error --fail --max-time 20 \
    -H "Title: llmbatch: $NOTIFY_EVENT" -H "Priority: $priority" --data-binary "$NOTIFY_TEXT" \
    "${NTFY_URL:?set it to the address of the topic}"
