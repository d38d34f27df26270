"""What a run does to its process, and undoes."""

from __future__ import annotations

import gc

import pytest

from llmbatch.runs.event_loop import run_in_loop


def test_a_run_collects_garbage_rarely_and_others_as_before() -> None:
    """Also after a run that raises."""
    usual = gc.get_threshold()

    async def main(*, fails: bool) -> tuple[int, int, int]:
        if fails:
            raise LookupError
        return gc.get_threshold()

    during = run_in_loop(main(fails=False))
    with pytest.raises(LookupError):
        run_in_loop(main(fails=True))

    assert during[0] >= 10 * usual[0]
    assert gc.get_threshold() == usual
