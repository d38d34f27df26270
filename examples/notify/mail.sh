#!/bin/sh
# Mail a notification by this machine's `mail` (mailutils, bsd-mailx, s-nail):
#
#     llmbatch run prompts.jsonl -m openai/gpt-5-mini --notify 'MAIL_TO=you@example.org sh examples/notify/mail.sh'
#
# The mail's body is the JSON of the notification, whose "next" says what to type.
set -eu
mail -s "llmbatch: $NOTIFY_EVENT: $NOTIFY_TEXT" "${MAIL_TO:?set it to the address}"
