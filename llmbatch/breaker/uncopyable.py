"""Refuse to copy and to pickle objects whose state belongs to one process."""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Uncopyable"]


class Uncopyable:
    """Base of classes that :mod:`copy` and :mod:`pickle` refuse with a message that says what to do instead."""

    __slots__ = ()

    INSTEAD = "create another one"

    def __reduce__(self) -> NoReturn:
        """Refuse.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled: its state belongs to the calls of one process; "
            f"{self.INSTEAD}"
        )
