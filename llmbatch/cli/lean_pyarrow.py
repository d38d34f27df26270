"""Imports pyarrow without numpy, which it needs only to exchange arrays, and which takes 11 MB of an export's memory.

For a process that does nothing else: pyarrow knows no numpy afterwards.
"""

from __future__ import annotations

import sys

__all__ = ["import_pyarrow"]


def import_pyarrow() -> None:
    """Import it so, unless it or numpy is loaded already; nothing if it is not installed."""
    if "numpy" in sys.modules or "pyarrow" in sys.modules:
        return
    sys.modules["numpy"] = None  # type: ignore[assignment]  # as the import system has it for what must not be found
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        pass  # the export says so
    finally:
        del sys.modules["numpy"]
