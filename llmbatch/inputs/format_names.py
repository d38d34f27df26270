"""The names of the formats of inputs, and the endings of files that tell them. Imports only the standard library."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final, Literal, get_args

__all__ = ["ENDINGS", "FORMATS", "InputFormat", "format_by_name"]

InputFormat = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow", "txt"]

FORMATS: Final[tuple[InputFormat, ...]] = get_args(InputFormat)

_BY_ENDING: Final[dict[str, InputFormat]] = {
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".txt": "txt",
}
_COMPRESSED: Final = (".gz", ".zst", ".zstd")

ENDINGS: Final = (".jsonl", ".ndjson", *_BY_ENDING, *_COMPRESSED)
"""Endings, in lower case, by which a file is taken for an input."""


def format_by_name(path: str) -> InputFormat:
    """The format of the input at *path*, by its ending; JSON Lines where that says nothing."""
    name = PurePath(path)
    if name.suffix.lower() in _COMPRESSED:
        name = name.with_suffix("")
    return _BY_ENDING.get(name.suffix.lower(), "jsonl")
