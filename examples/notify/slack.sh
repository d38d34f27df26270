#!/bin/sh
# Post a notification to Slack, by curl and an incoming webhook, whose URL is a secret and stays in the environment:
#
#     export SLACK_WEBHOOK_URL=https://hooks.slack.com/services/…
#     llmbatch run prompts.jsonl -m openai/gpt-5-mini --notify 'sh examples/notify/slack.sh'
set -eu
: "${SLACK_WEBHOOK_URL:?set it to the address of the incoming webhook}"
python3 -c '
import json, sys
told = json.load(sys.stdin)
text = told["text"] + "\n" + told["next"]
for character, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
    text = text.replace(character, escape)
print(json.dumps({"text": text}))
' | curl --silent --show-error --fail --max-time 20 -H 'Content-Type: application/json' --data-binary @- "$SLACK_WEBHOOK_URL"
