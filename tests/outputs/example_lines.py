"""Input and result lines, and how to read all rows of a source, for the tests of inputs and outputs."""

from __future__ import annotations

import asyncio
from typing import Protocol

from llmbatch.core.rows import Malformed, Result, Row, Status, encode_line
from llmbatch.inputs.rows import line_digest


class AnySource(Protocol):
    @property
    def exhausted(self) -> bool: ...

    def take(self) -> Row | Malformed | None: ...

    async def wait(self) -> None: ...


def input_line(number: int) -> bytes:
    """An input row, without its line end."""
    return b'{"id":"r%d","prompt":"say %d"}' % (number, number)


def result_line(row: int, *, raw: bytes | None = None, status: Status = "success", **fields: object) -> bytes:
    """The line that the row of *raw* (default: :func:`input_line`) ends as."""
    digest = line_digest(input_line(row) if raw is None else raw)
    values: dict[str, object] = {
        "attempts": 1,
        "status_code": 200,
        "body": '{"model":"m","x":[1,{}]}',
        "text": "ok \u2028 é",
    }
    values.update(fields)
    return encode_line(Result(row, digest, status, f'"r{row}"', **values))  # type: ignore[arg-type]


async def drain(source: AnySource) -> list[Row | Malformed]:
    """Every row that *source* still has."""
    rows: list[Row | Malformed] = []
    async with asyncio.timeout(120):
        while not source.exhausted:
            row = source.take()
            if row is not None:
                rows.append(row)
            else:
                await source.wait()
    return rows
