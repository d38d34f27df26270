"""Names that need no memory: the job, the ``custom_id`` of a row, and the label of a batch.

All follow from the input, the output's path and the settings, so that batches are found again by the provider's listing
alone. The user's own ids never travel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from llmbatch.core.raw_json import dumps

__all__ = ["Label", "RowName", "custom_id", "is_sibling", "job_name", "read_custom_id", "read_label", "route_name"]

_COMMAND_DIGITS = 5
_ID = re.compile(r"lb-([0-9a-f]{10})-([0-9]{1,11})-([0-9a-f]{8})").fullmatch
_FILE = re.compile(r"llmbatch-([0-9a-f]{10})-([0-9]{1,11})-([0-9]{1,11})-g([0-9]{1,6})\.jsonl").fullmatch


@dataclass(frozen=True, slots=True)
class RowName:
    """What a ``custom_id`` says: the job, the row's number, and the first 8 digits of its hash."""

    job: str
    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Label:
    """What a batch is: rows *first* to *last* of *job*, in generation *gen*.

    ``rows`` is how many of them it holds, ``digest`` that of their ``custom_id``s, ``route`` that of their model and
    endpoint. A file's name has no room for these three: None.
    """

    job: str
    first: int
    last: int
    gen: int
    rows: int | None = None
    digest: str | None = None
    route: str | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """The label as metadata of a batch."""
        return {
            "llmbatch": self.job,
            "first": str(self.first),
            "last": str(self.last),
            "gen": str(self.gen),
            "n": "" if self.rows is None else str(self.rows),
            "digest": self.digest or "",
            "route": self.route or "",
        }

    @property
    def file_name(self) -> str:
        """The label as the name of the uploaded file."""
        return f"llmbatch-{self.job}-{self.first}-{self.last}-g{self.gen}.jsonl"

    def is_like(self, other: Label) -> bool:
        """Whether both label the same batch, as far as each says."""
        if (self.job, self.first, self.last, self.gen) != (other.job, other.first, other.last, other.gen):
            return False
        mine, theirs = (self.rows, self.digest, self.route), (other.rows, other.digest, other.route)
        return all(a is None or b is None or a == b for a, b in zip(mine, theirs, strict=True))


def job_name(*, base_url: str, endpoint: str, settings: str, first_hash: str, output: str, folder: str = "") -> str:
    """The job: 5 hexadecimal digits for what is sent where and the base name of the output, then 5 for its *folder*."""
    command = [base_url, endpoint, settings, first_hash, output]
    digits = (sha256(dumps(text).encode(errors="surrogatepass")).hexdigest() for text in (command, [*command, folder]))
    return "".join(one[:_COMMAND_DIGITS] for one in digits)


def is_sibling(job: str, other: str) -> bool:
    """Whether two jobs differ in the folder of their outputs only."""
    return job != other and job[:_COMMAND_DIGITS] == other[:_COMMAND_DIGITS]


def route_name(endpoint: str, model: str) -> str:
    """Model and endpoint of a batch: 8 hexadecimal digits."""
    return sha256(dumps([endpoint, model]).encode(errors="surrogatepass")).hexdigest()[:8]


def custom_id(job: str, number: int, row_hash: str) -> str:
    """The id of a row within its batch: at most 36 characters that every provider takes."""
    return f"lb-{job}-{number}-{row_hash[:8]}"


def read_custom_id(text: str) -> RowName | None:
    """What *text* says, if it is a ``custom_id`` of llmbatch."""
    found = _ID(text)
    return None if found is None else RowName(found[1], int(found[2]), found[3])


def read_label(metadata: Mapping[str, str], file_name: str) -> Label | None:
    """The label of a batch in its *metadata*, or in the name of its file; None if it is not one of llmbatch's."""
    job = metadata.get("llmbatch", "")
    first, last, gen = (_number(metadata.get(name)) for name in ("first", "last", "gen"))
    if re.fullmatch(r"[0-9a-f]{10}", job) and first and last and gen and first <= last:
        return Label(
            *(job, first, last, gen),
            rows=_number(metadata.get("n")),
            digest=metadata.get("digest") or None,
            route=metadata.get("route") or None,
        )
    found = _FILE(file_name.rpartition("/")[2])
    if found is None or int(found[2]) > int(found[3]):
        return None
    return Label(found[1], int(found[2]), int(found[3]), int(found[4]))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and len(text) < 12 else None
