"""What an exception tells those who do not catch it."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from llmbatch import BatchRunner, UsageError
from llmbatch.core.errors import InputError, LlmbatchError, StoppedError


async def echo(row: object) -> object:
    return row


def test_a_traceback_kept_the_hint_to_itself() -> None:
    """What to try is the line below the message, as the command prints it."""
    with pytest.raises(UsageError) as caught:
        list(BatchRunner("opneai/gpt-5-mini", environ={}).stream_sync([{"prompt": "a"}]))

    lines = traceback.format_exception_only(caught.value)
    assert lines[-1].startswith("hint: did you mean openai/gpt-5-mini?")
    assert "hint" not in str(caught.value)


def test_an_error_without_a_hint_has_no_line_for_it() -> None:
    """Only the message."""
    assert traceback.format_exception_only(LlmbatchError("it broke")) == [
        "llmbatch.core.errors.LlmbatchError: it broke\n"
    ]


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("error", [InputError("in:3: no", hint="mend it", line=3), StoppedError("no", hint="pay")])
def test_the_hint_is_shown_once_after_a_copy(error: LlmbatchError, again: object) -> None:
    """As between processes."""
    other = again(error)  # type: ignore[operator]

    assert (other.message, other.hint) == (error.message, error.hint)
    assert "".join(traceback.format_exception_only(other)).count("hint: ") == 1


@pytest.mark.parametrize(("rows", "what"), [(None, "None"), (5, "one int"), (echo, "one function")])
async def test_rows_that_nobody_can_iterate_were_a_type_error_of_python(rows: object, what: str) -> None:
    """Refused in the words of other rows that are none."""
    with pytest.raises(InputError) as caught:
        await BatchRunner(echo).map(rows)  # type: ignore[arg-type]

    assert caught.value.message == f"rows is {what}, not a collection of rows"
    assert caught.value.hint == "pass an iterable, or an async iterable"
