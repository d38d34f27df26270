"""Where an exception was raised, as its traceback tells."""

from __future__ import annotations

import contextlib

from llmbatch.classify.raised import _frames, raised_at


def test_an_object_that_is_raised_again_and_again_is_read_in_bounded_time() -> None:
    """It keeps the frames of each time: reading all of them at each row took minutes."""
    again = RuntimeError("again")

    def raise_it() -> None:
        raise again

    for _ in range(3000):
        with contextlib.suppress(RuntimeError):
            raise_it()

    assert len(list(_frames(again))) == 1000
    assert raised_at(again).endswith("in raise_it")
