"""What an output has cost so far, for ``--max-cost``: its lines, and a sidecar for what no line tells.

The lines tell the cost of finished rows. Health checks, calls without an answer, and requests in flight when a process
was killed are in the sidecar, ``.o.jsonl.cost.json`` next to ``o.jsonl``: the amount that was booked before requests
were sent. It is written in steps of a hundredth of the cap, up and down, so a kill wastes three steps at most besides
what was in flight. Without it the lines alone count.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from decimal import Decimal, InvalidOperation

from llmbatch.core.errors import OutputError
from llmbatch.money.cap import CostCap
from llmbatch.outputs.lines import read_lines
from llmbatch.outputs.parts import list_parts, parts_beside
from llmbatch.outputs.scan import scan
from llmbatch.outputs.take_in import cost_path
from llmbatch.storage.atomic_replace import replace_file
from llmbatch.storage.filesystem import O_CLOEXEC, Filesystem

__all__ = ["SpendingFile", "spent_by_lines", "spent_in_parts", "spent_on"]

_STEPS = 100
_COST = re.compile(rb'(?:null|\}),"cost_usd":([0-9.]{1,40}),"model":')
_MOST_BYTES = 4096
_ZERO = Decimal(0)


def spent_by_lines(output: str, disk: Filesystem) -> Decimal:
    """The sum of ``cost_usd`` of the lines of *output*; 0 if there is no such file. Cost: one pass over the file.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        fd = disk.open(output, os.O_RDONLY | O_CLOEXEC)
    except FileNotFoundError:
        return _ZERO
    except OSError as error:
        raise OutputError(f"{output} cannot be read: {error.strerror}", hint="check its permissions") from error
    total = _ZERO
    try:
        for line in read_lines(fd, scan(fd, output, disk).end_bytes, disk):
            # The line's own member is behind its text and body, in which quotes are escaped; metadata follows it.
            found = _COST.search(line, max(0, line.rfind(b',"usage":')))
            if found is not None:
                with contextlib.suppress(InvalidOperation):
                    total += Decimal(found[1].decode())
    finally:
        disk.close(fd)
    return total


def spent_on(output: str, disk: Filesystem) -> Decimal:
    """What *output* has cost, by its lines and by its sidecar: the larger of the two. Cost: one pass over the file.

    Raises:
        OutputError: it cannot be read.
    """
    return max(spent_by_lines(output, disk), SpendingFile(output, disk).read())


def spent_in_parts(output: str, disk: Filesystem) -> Decimal:
    """What the parts have cost that the processes of a run write beside *output*.

    Raises:
        OutputError: one cannot be read.
    """
    return sum((spent_on(str(part.path), disk) for part in list_parts(parts_beside(output))), _ZERO)


class SpendingFile:
    """The sidecar of *output*. Failures to write it are ignored: the lines count without it."""

    def __init__(self, output: str, disk: Filesystem) -> None:
        self._path = cost_path(output)
        self._disk = disk
        self._booked = _ZERO

    def __repr__(self) -> str:
        return f"<SpendingFile {self._path}, {self._booked:f} booked>"

    def read(self) -> Decimal:
        """The amount that was booked, US$; 0 if there is no sidecar, or none that makes sense."""
        try:
            with self._path.open("rb") as file:
                amount = Decimal(json.loads(file.read(_MOST_BYTES))["booked_usd"])
        except (OSError, ValueError, LookupError, TypeError, InvalidOperation):
            return _ZERO
        self._booked = amount if amount.is_finite() and amount > 0 else _ZERO
        return self._booked

    def remove(self) -> None:
        """Remove it, as the output starts afresh."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def book(self, cap: CostCap) -> None:
        """Write before requests are sent that could cost more than what was booked, or so much less that it matters.

        In an outage little is in flight, and a kill would waste what was booked for the requests before it.
        """
        needed, step = cap.spent + cap.reserved, cap.limit / _STEPS
        if needed > self._booked or needed < self._booked - 2 * step:
            self._write(min(cap.limit, needed + step))

    def note(self, amount: Decimal) -> None:
        """Write that *amount* was spent, whatever was booked before."""
        self._write(amount)

    def close(self, cap: CostCap) -> None:
        """Write what was really spent, and what batches that go on can cost, at the end of a run."""
        if self._booked:
            self._write(cap.spent + cap.reserved)

    def _write(self, amount: Decimal) -> None:
        self._booked = amount
        with contextlib.suppress(OSError):
            data = json.dumps({"booked_usd": f"{amount:f}"}).encode() + b"\n"
            self._disk.close(replace_file(str(self._path), [data], self._disk))
