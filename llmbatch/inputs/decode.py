"""Converts the blocks of an input into lines: decompresses and splits; refuses binary formats by their first bytes.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmbatch.core.errors import InputError
from llmbatch.inputs.compression import HEAD_BYTES, CompressionError, inflater_for
from llmbatch.inputs.recognize import binary_format
from llmbatch.inputs.rows import strip_bom
from llmbatch.inputs.splitter import LineSplitter, LongLine

__all__ = ["Unterminated", "split_lines", "text_lines", "text_pieces"]

_CHECKED_BYTES = 64
"""How much of a text is looked at before it is passed on."""

_FEW_LETTERS = 4
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


class Unterminated(list[bytes | LongLine]):
    """The batch of the last line of an input that does not end in a line break."""


def text_lines(
    blocks: Iterator[bytes] | Iterator[bytes | None], name: str, *, from_start: bool = True
) -> Iterator[Sequence[bytes | LongLine] | None]:
    r"""The lines that each block completes, without their ``\n``, in batches that may be empty.

    A block of None means that no data is available right now, and is passed on. *name* is the input's, for messages.
    With *from_start* off, the blocks are from the middle of a plain file and no format is detected.

    Raises:
        InputError: damaged or truncated compression, text in UTF-16, or a format that is not text.
    """
    splitter = LineSplitter()
    for piece in _inflated(blocks, name) if from_start else blocks:
        if piece is None:
            yield None
            continue
        lines = splitter.feed(piece)
        if from_start and lines:
            lines = _first_line_checked(lines, name)
            from_start = False
        yield lines
    lines = splitter.finish()
    yield Unterminated(_first_line_checked(lines, name) if from_start else lines)


def text_pieces(blocks: Iterator[bytes] | Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    """The decompressed text of *blocks*, without a byte order mark, for formats that are split otherwise than at lines.

    A block of None is passed on. *name* is the input's, for messages.

    Raises:
        InputError: damaged or truncated compression, text in UTF-16, or a format that is not text.
    """
    head: bytes | None = b""
    for piece in _inflated(blocks, name):
        if piece is None or head is None:
            yield piece
            continue
        head += piece
        if len(head) >= _CHECKED_BYTES:
            yield _start_checked(head, name)
            head = None
    if head:
        yield _start_checked(head, name)


def split_lines(pieces: Iterator[bytes | None]) -> Iterator[Sequence[bytes | LongLine] | None]:
    """The lines of *pieces*, as :func:`text_lines` gives them."""
    splitter = LineSplitter()
    for piece in pieces:
        yield None if piece is None else splitter.feed(piece)
    yield Unterminated(splitter.finish())


def _inflated(blocks: Iterator[bytes] | Iterator[bytes | None], name: str) -> Iterator[bytes | None]:
    head = b""
    for block in blocks:
        if block is None:
            yield None
            continue
        head += block
        if len(head) >= HEAD_BYTES:
            break
    refused = binary_format(head, name)
    if refused is not None:
        raise refused
    inflater = inflater_for(head)
    try:
        yield from inflater.feed(head)
        for block in blocks:
            if block is None:
                yield None
            else:
                yield from inflater.feed(block)
        inflater.finish()
    except CompressionError as error:
        raise InputError(f"{name}: {error}", hint="fetch or compress the file again, or give it uncompressed") from None


def _utf16(first: bytes) -> str:
    """Which UTF-16 *first*, the first line, is in; empty if it is not. Without a BOM, by the NULs of ASCII letters."""
    if first.startswith(_UTF16_BOMS):
        return "UTF-16"
    even, odd = first[0:32:2], first[1:32:2]
    if len(odd) < _FEW_LETTERS or first[:32].count(0) < _FEW_LETTERS:
        return ""
    return "UTF-16LE" if not any(odd) and all(even) else "UTF-16BE" if not any(even) and all(odd) else ""


def _first_line_checked(lines: Sequence[bytes | LongLine], name: str) -> Sequence[bytes | LongLine]:
    first = lines[0] if lines else b""
    if isinstance(first, LongLine):
        return lines
    first = _start_checked(first, name)
    return [first, *lines[1:]] if lines else lines


def _start_checked(start: bytes, name: str) -> bytes:
    encoding = _utf16(start)
    if encoding:
        hint = f"convert it to UTF-8, for example with iconv -f {encoding} -t UTF-8"
        raise InputError(f"{name}: the text is UTF-16, not UTF-8", hint=hint, line=1)
    refused = binary_format(start, name) if start else None  # of the decompressed data; the file's own head: before
    if refused is not None:
        raise refused
    return strip_bom(start)
