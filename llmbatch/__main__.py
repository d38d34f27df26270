"""``python -m llmbatch``: the same command as ``llmbatch``."""

from __future__ import annotations

import sys

from llmbatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
