"""Cut lists of objects into pages, as both providers do: by the id before or after which a page begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["page_of"]

_T = TypeVar("_T")


def page_of(
    items: Sequence[_T], id_of: Callable[[_T], str], *, limit: int, after: str | None = None, before: str | None = None
) -> tuple[Sequence[_T], bool]:
    """Up to *limit* items after (or right before) the one of that id, and whether there are more that way.

    An id that is gone begins at the start.
    """
    ids = [id_of(item) for item in items]
    if before is not None and before in ids:
        end = ids.index(before)
        start = max(0, end - limit)
        return items[start:end], start > 0
    start = ids.index(after) + 1 if after is not None and after in ids else 0
    return items[start : start + limit], start + limit < len(items)
