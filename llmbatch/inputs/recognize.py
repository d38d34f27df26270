"""Recognizes input that is of another format than it was opened as, and says what to type.

Binary formats by their first bytes; text formats by the first rows of what was opened as JSON Lines, once none of them
can be sent. Pure: it gives errors and raises none. It converts nothing.
"""

from __future__ import annotations

import contextlib
import csv
import json
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

from llmbatch.core.calls import record
from llmbatch.core.errors import InputError
from llmbatch.core.rows import Malformed
from llmbatch.inputs.format_names import InputFormat, format_by_name
from llmbatch.inputs.rows import EXCERPT_CHARS, NAMING_MEMBERS, PROMPT_MEMBERS

__all__ = ["MOST_MALFORMED", "binary_format", "other_format", "unsendable"]

MOST_MALFORMED: Final = 20
"""First rows that are looked at: if all of them are malformed, nothing is sent and nothing is written."""

_DECODER: Final = json.JSONDecoder()
_JSON_SPACE: Final = (" ", "\t", "\r", "\n")
_STANDARD_INPUT = "standard input"
_GZIP = (".gz",)
_ZSTD = (".zst", ".zstd")
_EXPECTED: dict[str, str] = {
    "csv": "CSV",
    "tsv": "TSV",
    "json": "a JSON array or lines of JSON",
    "txt": "plain text",
}
_NAMED_ROWS = 3
"""Malformed rows that the error names."""

_PYTHON = 'python3 -c "{}"'
_PANDAS = "import sys,pandas; pandas.{}(sys.argv[1]).to_json(sys.argv[2],orient='records',lines=True)"


@record
class _Format:
    """A format that is not JSON Lines: ``input_format`` names it, or ``filter`` is a command that converts it."""

    name: str
    input_format: InputFormat | None = None
    remark: str = ""
    filter: str = ""


_ARRAY = _Format("a JSON array", "json")
_PRETTY = _Format("JSON with line breaks inside its values", filter="jq -c .")
_COMMAS = _Format("JSON with commas between the rows", filter="sed 's/,[[:space:]]*$//'")
_SEVERAL = _Format("JSON with several values in one line", filter="jq -c .")
_CSV_REMARK = "; the column of the prompts is prompt, or named with --prompt-column"
_COMMA = _Format("CSV", "csv", _CSV_REMARK)
_SEMICOLON = _Format("CSV with semicolons", "csv", _CSV_REMARK)
_TAB = _Format("TSV", "tsv", _CSV_REMARK)
_TEXT = _Format("plain text", "txt", "; each line becomes one prompt")
_PYTHON_LINES = _Format(
    "the notation of Python, with single quotes",
    filter='python3 -c "import ast,json,sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin]"',
)
_PAGES = ("<!doctype html", "<html")
_RESULT_FIELDS: Final = ("row", "hash", "status")
"""How lines that a run has written begin."""
_MOST_FIELDS = 12

_COMPRESSED: dict[bytes, tuple[str, str, str]] = {
    b"BZh": ("compressed with bzip2", "bunzip2", ".bz2"),
    b"\xfd7zX": ("compressed with xz", "unxz", ".xz"),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "unlz4", ".lz4"),
}
_TABLES: dict[bytes, tuple[str, InputFormat]] = {b"PAR1": ("Parquet", "parquet"), b"ARROW1": ("an Arrow file", "arrow")}
_ZIP = b"PK\x03\x04"
_XLSX_PARTS = (b"[Content_Types].xml", b"xl/")
_OTHERS: dict[bytes, str] = {b"7z\xbc\xaf": "a 7-Zip archive", b"%PDF": "a PDF", b"SQLite format": "an SQLite database"}
_LFS_POINTER = b"version https://git-lfs.github.com/"


def binary_format(head: bytes, name: str) -> InputError | None:
    """The error for a file *name* that starts with *head* if that is a binary format or a foreign compression."""
    path = shlex.quote(name)
    is_stream = name == _STANDARD_INPUT
    for magic, (seen, tool, suffix) in _COMPRESSED.items():
        if head.startswith(magic) and (magic != b"BZh" or head[3:4].isdigit()):
            if is_stream:
                return _refused(name, seen, f"decompress it first: {tool} -c | llmbatch run -")
            made = shlex.quote(name.removesuffix(suffix) if name.endswith(suffix) else f"{name}.jsonl")
            return _refused(name, seen, f"decompress it: {tool} -c < {path} > {made} && llmbatch run {made}")
    for magic, (seen, input_format) in _TABLES.items():
        if head.startswith(magic):
            hint = f"read it as that: llmbatch run {path} --input-format {input_format}"
            return _refused(name, seen, "save it to a file, and name that" if is_stream else hint)
    if head.startswith(_ZIP):
        if any(part in head[:4096] for part in _XLSX_PARTS) or name.endswith(".xlsx"):
            return _refused(name, "an Excel workbook", _pandas_hint(name, "read_excel"))
        hint = f"unpack it: unzip {path}, then llmbatch run the file in it"
        return _refused(name, "a ZIP archive", "unpack it, then pipe or name the file in it" if is_stream else hint)
    if head.startswith(_LFS_POINTER):
        return _refused(name, "a Git LFS pointer to a file that was not fetched", "fetch it: git lfs pull")
    for magic, seen in _OTHERS.items():
        if head.startswith(magic):
            return _refused(name, seen, 'convert it to lines such as {"prompt": "…"}')
    return None


def other_format(name: str, first: Malformed, *, unit: str = "line") -> InputError | None:
    """The error for an input whose *first* row alone shows that it is another format; None where more rows decide.

    *unit*: as for :func:`unsendable`.
    """
    found = _format_of_first(name, first) if unit == "line" else _PRETTY if _is_pretty(first) else None
    return None if found is None else _converted(name, found)


def unsendable(name: str, rows: Sequence[Malformed], *, unit: str = "line") -> InputError:
    """The error for an input of which the first *rows*, one or more, are all malformed.

    *unit*: what their numbers count. Only lines are looked at for another format.
    """
    other = _not_text(name, rows) or _no_rows(name, rows[0])
    if other is not None:
        return other
    found = None
    if unit == "line":
        found = _format_of_first(name, rows[0]) or _text_format(rows) or _more_than_a_row(rows)
    if found is not None:
        return _converted(name, found)
    named = rows[:1] if len({(row.code, row.message) for row in rows}) == 1 else rows[:_NAMED_ROWS]
    if len(named) == 1 and rows[0].code == "input_unknown_provider":
        # A fault of a name, not of a form: what was meant is told with it.
        message, _, hint = rows[0].message.partition("; ")
        return InputError(f"{name}: {_which(rows)} refused: {message}", hint=hint, line=rows[0].number)
    shown = "; ".join(f"{unit} {row.number}: {row.code}: {row.message}" for row in named)
    hint = 'a row is one line such as {"prompt": "…"}, {"messages": […]} or a batch row'
    if unit != "line":
        hint = "correct these records, or say what the prompt is: --prompt-column NAME, or -t '… {{ NAME }} …'"
    elif all(row.code in ("input_no_prompt", "input_missing_field") for row in rows):
        hint = _hint_of_fields(rows[0]) or hint
    if all(row.code == "input_bad_url" and "with --endpoint raw" in row.message for row in rows):
        hint = "if the provider has these paths, send the rows to them as they are: --endpoint raw"
    elif all(row.code == "input_bad_url" and row.message.startswith("--endpoint raw") for row in rows):
        hint = "leave out --endpoint: each row shows its own, or name another, such as --endpoint chat"
    return InputError(f"{name}: {_which(rows)} malformed: {shown}", hint=hint, line=rows[0].number)


def _hint_of_fields(row: Malformed) -> str:
    """What to type for a *row* whose prompt, or another field that was asked for, is not there; empty if unknown."""
    names = _field_names(row.excerpt)
    shown = ", ".join(names[:_MOST_FIELDS]) + (", …" if len(names) > _MOST_FIELDS else "")
    if row.code == "input_missing_field" and names:
        return f"the fields of line {row.number} are: {shown}"
    column = next((name for name in names if name not in NAMING_MEMBERS), None)
    if column is None or any(member in names for member in PROMPT_MEMBERS):
        return ""
    example = column if column.isidentifier() else f'row["{column}"]'
    return (
        f"the fields of line {row.number} are: {shown}; name the prompt's, such as --prompt-column "
        f"{shlex.quote(column)}, or write a template: -t '… {{{{ {example} }}}}'"
    )


def _field_names(text: str) -> list[str]:
    """The names of the members of a JSON object, as far as *text*, which may be cut, goes."""
    names: list[str] = []
    at = _after_space(text, 0)
    with contextlib.suppress(ValueError):  # where it is cut
        while text[at : at + 1] in ("{", ","):
            name, at = _DECODER.raw_decode(text, _after_space(text, at + 1))
            names.append(str(name))
            colon = _after_space(text, at)
            _, at = _DECODER.raw_decode(text, _after_space(text, colon + 1))
            at = _after_space(text, at)
    return names


def _after_space(text: str, at: int) -> int:
    while text[at : at + 1] in _JSON_SPACE:
        at += 1
    return at


def _no_rows(name: str, first: Malformed) -> InputError | None:
    """The error where *first*, the first line, is of a file that holds no rows at all."""
    if first.excerpt.lstrip()[:20].lower().startswith(_PAGES):
        return _refused(name, "an HTML page", "was a page downloaded in its place? fetch the file itself")
    if tuple(_field_names(first.excerpt)[:3]) == _RESULT_FIELDS:
        path = shlex.quote(name)
        hint = f"name the input of that run; llmbatch status {path} tells about it, llmbatch export {path} converts it"
        return InputError(f"{name}: this is the output of a run, not its input", hint=hint)
    return None


def _which(rows: Sequence[Malformed]) -> str:
    return "the only row is" if len(rows) == 1 else f"all of the first {len(rows)} rows are"


def _format_of_first(name: str, first: Malformed) -> _Format | None:
    text = first.excerpt.strip()
    if first.code == "input_not_a_row" and text.startswith("["):
        return _ARRAY
    if first.code == "input_bad_json" and text.startswith("[") and _opens_array(text):
        return _ARRAY
    if _is_pretty(first):
        return _PRETTY
    suffix = PurePath(_plain_name(name)).suffix.lower()
    if suffix not in (".csv", ".tsv"):
        return None
    usual = {"\t": _TAB, ",": _COMMA, ";": _SEMICOLON}
    order = "\t,;" if suffix == ".tsv" else ",;\t"
    return next((usual[delimiter] for delimiter in order if delimiter in text), usual[order[0]])


def _is_pretty(first: Malformed) -> bool:
    """Whether an object begins in the *first* line that does not end there: also in a ``.json`` that is no array."""
    return first.code == "input_bad_json" and first.excerpt.strip() == "{"


def _not_text(name: str, rows: Sequence[Malformed]) -> InputError | None:
    """The error for *rows* that hold bytes which no text has, or text in another encoding."""
    if any(_is_control(character) for row in rows for character in row.excerpt):
        return InputError(
            f"{name}: this is binary data, not JSON Lines (one row per line)",
            hint='convert it to lines such as {"prompt": "…"}',
        )
    if any(row.code == "input_bad_utf8" for row in rows):
        source = "" if name == _STANDARD_INPUT else f" {shlex.quote(name)}"
        return InputError(
            f"{name}: the text is not UTF-8",
            hint=f"convert it, if it is Western European for example: iconv -f WINDOWS-1252 -t UTF-8{source}",
        )
    return None


def _is_control(character: str) -> bool:
    return character < " " and character not in "\t\r\x0b\x0c\x1b\x1e"


def _opens_array(text: str) -> bool:
    """Whether *text*, no whole JSON, starts an array of values rather than a sentence or an INI section."""
    return text[1:].lstrip()[:1] in ("", "{", '"', "[")


def _more_than_a_row(rows: Sequence[Malformed]) -> _Format | None:
    """Where each of *rows* is a JSON object and a comma, as within an array, or more objects; or is Python's."""
    if any(row.code != "input_bad_json" or row.excerpt[:1] != "{" for row in rows):
        return None
    if all(row.excerpt.startswith("{'") for row in rows):
        return _PYTHON_LINES
    rests = []
    for row in rows:
        try:
            _, end = _DECODER.raw_decode(row.excerpt)
        except ValueError:
            return None
        rests.append(row.excerpt[end:].strip())
    if all(rest == "," for rest in rests):
        return _COMMAS
    return _SEVERAL if all(rest[:1] == "{" for rest in rests) else None


def _text_format(rows: Sequence[Malformed]) -> _Format | None:
    text_codes = ("input_bad_json", "input_not_a_row", "input_bad_utf8")
    if any(row.code not in text_codes or row.excerpt.lstrip()[:1] in ("{", "[", "") for row in rows):
        return None
    lines = [row.excerpt.rstrip("\r") for row in rows if len(row.excerpt) < EXCERPT_CHARS]
    if len(lines) > 1:
        for delimiter, found in (("\t", _TAB), (",", _COMMA), (";", _SEMICOLON)):
            try:
                columns = [len(cells) for cells in csv.reader(lines, delimiter=delimiter)]
            except csv.Error:  # control characters
                return _TEXT
            if columns and columns[0] > 1 and columns.count(columns[0]) >= 0.8 * len(columns):
                return found
    return _TEXT


def _converted(name: str, found: _Format) -> InputError:
    if found.input_format is not None:
        path = "-" if name == _STANDARD_INPUT else shlex.quote(name)
        hint = f"read it as that: llmbatch run {path} --input-format {found.input_format}{found.remark}"
        return _refused(name, found.name, hint)
    if name == _STANDARD_INPUT:
        return _refused(name, found.name, f"convert it on the way: {found.filter} | llmbatch run -")
    path = shlex.quote(name)
    plain = _plain_name(name)
    made = str(PurePath(plain).with_suffix(".jsonl"))
    if made == name:
        made = str(PurePath(plain).with_suffix(".rows.jsonl"))
    made = shlex.quote(made)
    if name.endswith(_GZIP):
        convert = f"gzip -dc {path} | {found.filter} > {made}"
    elif name.endswith(_ZSTD):
        convert = f"zstd -dc {path} | {found.filter} > {made}"
    else:
        convert = f"{found.filter} < {path} > {made}"
    return _refused(name, found.name, f"convert it: {convert} && llmbatch run {made}")


def _pandas_hint(name: str, reader: str) -> str:
    script = _PYTHON.format(_PANDAS.format(reader))
    if name == _STANDARD_INPUT:
        return f"save it to a file and convert that: {script} FILE rows.jsonl && llmbatch run rows.jsonl"
    path = PurePath(name).with_suffix(".jsonl")
    made = shlex.quote(str(path.with_suffix(".rows.jsonl") if str(path) == name else path))
    return f"convert it: {script} {shlex.quote(name)} {made} && llmbatch run {made}{_CSV_REMARK}"


def _plain_name(name: str) -> str:
    """*name* without the ending of a compression that is read."""
    return str(PurePath(name).with_suffix("")) if name.endswith((*_GZIP, *_ZSTD)) else name


def _expected(name: str) -> str:
    return _EXPECTED.get(format_by_name(name), "JSON Lines (one row per line)")


def _refused(name: str, seen: str, hint: str) -> InputError:
    return InputError(f"{name}: this is {seen}, not {_expected(name)}", hint=hint)
