"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell that starts the tests in the background, or nohup, has them ignore these, and every process they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
