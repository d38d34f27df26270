"""Scans an output file: which rows it has, where its last whole line ends, and whether llmbatch wrote it.

Only the fixed prefix of each line is read and no body is parsed; memory does not depend on the file or on the length of
its lines. The file is not changed.
"""

from __future__ import annotations

import re
import shlex
from array import array
from binascii import unhexlify
from typing import Final

from llmbatch.core.calls import record
from llmbatch.core.errors import OutputError
from llmbatch.core.raw_json import RawJsonError, parse
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.storage.filesystem import FILESYSTEM, Filesystem
from llmbatch.storage.finished_rows import FAILED, SUCCESS, FinishedRows

__all__ = ["BOM", "START_AFRESH", "Scan", "match_line", "scan"]

START_AFRESH: Final = "write to another file (-o), or start afresh (--overwrite)"

_BLOCK_BYTES = 256 * 1024
BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark, which llmbatch does not write."""

_LINE_START = b'{"row":'
_LINE_END = b"}\n"
_PREFIX_BYTES = 128
_BRACE = ord("}")

_HEAD = rb'\{"row":([1-9][0-9]{0,17}),"hash":"([0-9a-f]{16})","status":"(success|failed)"[,}]'

match_line = re.compile(_HEAD).match
"""The prefix that every result line starts with: row, hash, status."""

_HEAD_BYTES = 80
"""Maximum length of the prefix."""

_find_heads = re.compile(b"^" + _HEAD, re.MULTILINE).findall


@record
class Scan:
    """Result of a scan.

    ``end_bytes`` is where the good part of the file ends; what follows is torn and will be removed. ``lacks_newline``:
    the last line of the good part is complete except for its line end.
    """

    finished: FinishedRows
    end_bytes: int
    lacks_newline: bool


def scan(
    fd: int,
    name: str,
    disk: Filesystem = FILESYSTEM,
    *,
    shard: Shard = WHOLE,
) -> Scan:
    """Read the whole file *fd* without changing its position. Cost: about a second per gigabyte.

    Of the rows, those of *shard* are kept.

    Raises:
        OutputError: a whole line is not llmbatch's, or a row has two lines; the message has the line's number.
    """
    # Every whole line adds one row, so that the number of rows is the number of lines so far.
    finished = FinishedRows(shard)
    offset = tail_bytes = 0
    tail = b""  # the start of a line that continues in the next block
    damaged = 0  # the number of a whole line with NUL bytes in it, accepted only if it is the last
    while block := disk.pread(fd, _BLOCK_BYTES, offset):
        offset += len(block)
        tail_bytes += len(block)
        first, last = block.find(b"\n"), block.rfind(b"\n")
        if first < 0:
            tail = _shortened(tail + block)
            continue
        # The line that the last block began is joined; the others are read in place.
        joined = _LINE_END + tail + block[: first + 1]
        for text, start, end in ((joined, 1, len(joined) - 1), (block, first, last)):
            if start == end:
                continue
            if damaged:
                raise _damaged(name, damaged)
            if not _enter_all(text, start, end, name, finished):
                damaged = _enter_each(text[start + 1 : end].split(b"\n"), name, finished)
        tail = block[last + 1 :]
        tail_bytes = len(tail)
    end_bytes = offset - tail_bytes
    if damaged:
        return Scan(finished, _line_start(fd, end_bytes - 1, disk), lacks_newline=False)
    if tail:
        _check_torn(tail, name, finished)
        if _is_whole(tail, disk.pread(fd, tail_bytes, end_bytes)):
            _enter(tail, name, finished)
            return Scan(finished, offset, lacks_newline=True)
    return Scan(finished, end_bytes, lacks_newline=False)


def _enter_all(text: bytes, start: int, end: int, name: str, finished: FinishedRows) -> bool:
    """Add the rows of all lines between two newlines of *text*; False, and nothing added, if not all are llmbatch's."""
    if text.find(0, start, end) >= 0:
        return False
    heads: list[bytes] = []
    at = start
    while at < end:  # find(), and one findall() for all prefixes: faster here than a match per line, split() or a file
        heads.append(text[at + 1 : at + _HEAD_BYTES])
        before, at = at, text.find(b"\n", at + 1)
        if text[at - 1] != _BRACE or at - before < _HEAD_BYTES:  # a head that reaches into the next line tells of both
            return False
    found = _find_heads(b"\n".join(heads))
    if len(found) != len(heads):
        return False
    numbers, hashes, states = zip(*found, strict=True)
    fingerprints = array("I", unhexlify(b"".join(hashes)))[::2]
    statuses = [SUCCESS if state == b"success" else FAILED for state in states]
    rows = list(map(int, numbers))
    try:
        entered = finished.add_all(rows, fingerprints, statuses)
    except ValueError as error:
        raise OutputError(f"{name}:{finished.lines + 1}: {error}", hint=START_AFRESH) from None
    if entered < len(rows):
        raise _repeated(name, finished.lines + 1, rows[entered])
    return True


def _enter_each(lines: list[bytes], name: str, finished: FinishedRows) -> int:
    """Add lines one by one, to find the foreign one; return the number of the last line if it has NUL bytes, else 0."""
    is_holed = 0 in lines[-1]
    for line in lines[:-1] if is_holed else lines:
        _enter(line, name, finished)
    return _holed(lines[-1], name, finished) if is_holed else 0


def _holed(line: bytes, name: str, finished: FinishedRows) -> int:
    """The number of a whole line with NUL bytes, which a crash may have left."""
    _check_torn(line, name, finished)
    return finished.lines + 1


def _enter(line: bytes, name: str, finished: FinishedRows) -> None:
    number = finished.lines + 1
    found = match_line(line)
    if found is None:
        _check_torn(line, name, finished)
    if found is None or line[-1] != _BRACE or 0 in line:
        raise _converted(name, number) if found is not None and line.endswith(b"}\r") else _damaged(name, number)
    try:
        entered = finished.add(int(found[1]), found[2].decode(), "success" if found[3] == b"success" else "failed")
    except ValueError as error:
        raise OutputError(f"{name}:{number}: {error}", hint=START_AFRESH) from None
    if not entered:
        raise _repeated(name, number, int(found[1]))


def _repeated(name: str, number: int, row: int) -> OutputError:
    # Exactly one line per row is the guarantee; which of two lines is right cannot be known.
    return OutputError(
        f"{name}:{number}: row {row} has a second line here: the file was joined or edited",
        hint=f"remove one of the two lines, or {START_AFRESH}",
    )


def _check_torn(line: bytes, name: str, finished: FinishedRows) -> None:
    """Refuse a last line that no crash of llmbatch leaves behind; only other torn lines may be removed.

    A torn line has the start of our prefix, as far as it goes, or NUL bytes in place of what never reached the disk.
    """
    start = line[: len(_LINE_START)].partition(b"\0")[0]
    if line and not finished.lines and not line.strip(b"\0"):
        # Nothing shows that llmbatch wrote it, and removing it would leave nothing.
        message = f"{name}:1: the file contains nothing but NUL bytes"
        raise OutputError(message, hint=f"restore it from a copy if it ever held results, or {START_AFRESH}")
    if not line or not _LINE_START.startswith(start) or (not start and not finished.lines and line.strip(b"\0")):
        message = f"{name}:{finished.lines + 1}: this is not a result line of llmbatch"
        if line.startswith(BOM + _LINE_START):
            hint = f"an editor has put a byte order mark before it; remove that: {_rewritten(name, 'tail -c +4')}"
            raise OutputError(message, hint=hint)
        raise OutputError(message, hint=f"remove that line, or {START_AFRESH}" if finished.lines else START_AFRESH)


def _rewritten(name: str, command: str) -> str:
    """What to type to have *command* rewrite the file *name*."""
    old, new = shlex.quote(name), shlex.quote(f"{name}.new")
    return f"{command} < {old} > {new} && mv {new} {old}"


def _converted(name: str, number: int) -> OutputError:
    message = f"{name}:{number}: this result line is damaged: it ends in CR LF, as an editor, git or a transfer writes"
    return OutputError(message, hint="restore the line ends: " + _rewritten(name, "tr -d '\\r'"))


def _damaged(name: str, number: int) -> OutputError:
    return OutputError(
        f"{name}:{number}: this result line is damaged",
        hint=f"remove that line to resend its row, or {START_AFRESH}",
    )


def _shortened(line: bytes) -> bytes:
    # Of a long line, only the start, the end and whether it has NUL bytes matter.
    if len(line) <= _BLOCK_BYTES:
        return line
    return line[:_PREFIX_BYTES] + (b"\0" if 0 in line else b"") + line[-1:]


def _is_whole(tail: bytes, whole: bytes) -> bool:
    # A kill between a line's last byte and its newline leaves a whole result, which is paid for.
    if match_line(tail) is None or tail[-1] != _BRACE:
        return False
    try:
        parse(whole.decode())
    except (RawJsonError, UnicodeDecodeError):
        return False
    return True


def _line_start(fd: int, before: int, disk: Filesystem) -> int:
    """The start of the line whose newline is at *before*."""
    while before:
        at = max(0, before - _BLOCK_BYTES)
        newline = disk.pread(fd, before - at, at).rfind(b"\n")
        if newline >= 0:
            return at + newline + 1
        before = at
    return 0
