"""Statistics from the lines of an output: failures by code, and each route's rows, latency, tokens and cost.

They do not depend on the status file. Lines are added one by one; the caller reads the file. Memory is bounded by caps
on codes and routes and does not grow with the rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from llmbatch.core.raw_json import JSON, RawJsonError, parse
from llmbatch.report.counters import OTHER, CodeCounter
from llmbatch.report.histogram import LatencyHistogram
from llmbatch.report.row_spread import RowSpread

__all__ = ["FailedRow", "FailureGroup", "FailureGroups", "LineRoute", "OutputLines", "failed_row", "is_failed"]

_MOST_CODES = 100
_MOST_ROUTES = 500
_MOST_MESSAGES = 50
_MOST_MESSAGE_CHARACTERS = 1000
_MOST_EXAMPLES = 5
_LARGEST = 1e18
_MOST_USD = Decimal(10) ** 12
_OTHER_ROUTES = "(other routes)"

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_HEAD = (
    rb',"usage":(?:null|\{"input_tokens":([0-9]{1,18}),"output_tokens":([0-9]{1,18})\})'
    rb',"cost_usd":(null|[-+.0-9eE]{1,40}),"model":(null|' + _STRING + rb")"
    rb',"attempts":[0-9]+,"deferrals":[0-9]+,"latency_s":(null|[0-9.]{1,40})(?:,"settings":"[0-9a-f]{1,64}")?'
    rb'(?:,"finish_reason":(' + _STRING + rb"))?"
)
_PARSED = b',"parsed":'
_END = (
    rb'(,"cached":true)?(?:,"route":(' + _STRING + rb'))?(?:,"tier":(' + _STRING + rb"))?"
    rb'(?:,"via":"batch","batch_id":' + _STRING + rb')?,"metadata":null\}\r?\n?\Z'
)
_is_failed = re.compile(rb'\{"row":[1-9][0-9]{0,17},"hash":"[0-9a-f]{16}","status":"failed"[,}]').match
_match_id = re.compile(rb'\{"row":[0-9]+,"hash":"[0-9a-f]+","status":"failed","id":(' + _STRING + rb"|[^,]+),").match
_match_error = re.compile(
    rb',"error":\{"code":('
    + _STRING
    + rb'),"message":('
    + _STRING
    + rb')\},"text":(?:null|'
    + _STRING
    + rb')(?=,"usage":)'
).match
_match_tail = re.compile(_HEAD + _END).match
# The parsed answer is any JSON value. Behind an object or a list without more members the end is known by its last
# bytes; a line with others is parsed.
_match_tail_with_parsed = re.compile(_HEAD + rb"(?=" + _PARSED + rb")()()()").match
_ENDS_WITH_PARSED = tuple(close + b',"metadata":null}' + end for close in (b"}", b"]") for end in (b"", b"\n", b"\r\n"))


@dataclass(frozen=True, slots=True)
class FailedRow:
    """One failed row: its id as its line has it (text or a number), and why it failed."""

    id: JSON
    code: str
    message: str


@dataclass(slots=True)
class FailureGroup:
    """The failed rows of one code.

    ``messages`` counts the first 50 different ones; ``ids`` holds the first ones; ``examples`` has the first five rows
    whose messages differ.
    """

    code: str
    count: int = 0
    messages: dict[str, int] = field(default_factory=dict)
    ids: list[JSON] = field(default_factory=list)
    examples: list[FailedRow] = field(default_factory=list)

    @property
    def message(self) -> str:
        """The most frequent message."""
        return max(self.messages, key=lambda text: self.messages[text], default="")


class FailureGroups:
    """Failed rows by code: at most 100 codes, and ``other`` for the rest. *most_ids*: ids kept for each."""

    def __init__(self, most_ids: int = 3) -> None:
        self._most_ids = most_ids
        self._groups: dict[str, FailureGroup] = {}

    def add(self, row: FailedRow) -> FailureGroup:
        """Count one failed row; return its group."""
        code = row.code[:80] or "unknown"
        group = self._groups.get(code)
        if group is None:
            if len(self._groups) >= _MOST_CODES:
                code = OTHER
            group = self._groups.setdefault(code, FailureGroup(code))
        group.count += 1
        message = row.message[:_MOST_MESSAGE_CHARACTERS]
        if message not in group.messages and len(group.examples) < _MOST_EXAMPLES:
            group.examples.append(FailedRow(row.id, row.code[:80], message))
        if message in group.messages or len(group.messages) < _MOST_MESSAGES:
            group.messages[message] = group.messages.get(message, 0) + 1
        if len(group.ids) < self._most_ids:
            group.ids.append(row.id)
        return group

    def __iter__(self) -> Iterator[FailureGroup]:
        return iter(sorted(self._groups.values(), key=lambda group: (-group.count, group.code)))


@dataclass(slots=True)
class LineRoute:
    """Totals of the lines of one route. Latencies are those of successful rows."""

    label: str
    rows: int = 0
    failed: int = 0
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal | None = None


class OutputLines:
    """The fold over the lines of an output. Cost: two or three microseconds a line that this version wrote.

    ``cut_answers`` counts successes with finish reason ``length``, ``answers_without_text`` those with an empty text,
    ``tiers`` rows by the service tier that their lines name. *spread* gets the numbers of each row that has a model.
    """

    def __init__(self, spread: RowSpread | None = None) -> None:
        self._spread = spread
        self.failures = FailureGroups()
        self.cut_answers = 0
        self.cached = 0
        """Rows that were answered from a cache."""
        self.answers_without_text = 0
        self.tiers = CodeCounter()
        self._routes: dict[str, LineRoute] = {}
        self._labels: dict[bytes, str] = {}

    @property
    def routes(self) -> list[LineRoute]:
        """The routes that have rows, by name."""
        return sorted(self._routes.values(), key=lambda route: route.label)

    def add(self, line: bytes) -> None:
        """Count one whole line."""
        failed = is_failed(line)
        if failed:
            self.failures.add(failed_row(line))
        # A text or a body cannot hold this unescaped behind the line's own member, and metadata that does fails to
        # match: what is not exactly as this version writes it is parsed instead.
        end = line.rfind(b',"usage":')
        found = _match_tail(line, end) or _tail_with_parsed(line, end)
        if found is None:
            self._add_parsed(line, failed=failed)
            return
        inputs, outputs, cost, model, latency, finish, cached, route, tier = found.groups()
        self.cached += bool(cached)
        if tier:
            self.tiers.add(str(parse(tier.decode("utf-8", "replace"))))
        if not failed:
            self.cut_answers += finish == b'"length"'
            # What is inside a text or a body cannot end so: its quotes are escaped.
            self.answers_without_text += line.endswith(b',"text":""', 0, end)
        if model == b"null":
            return
        model = route or model
        label = self._labels.get(model)
        if label is None:
            label = str(parse(model.decode("utf-8", "replace")))
            if len(self._labels) < _MOST_ROUTES:
                self._labels[model] = label
        self._count(
            label,
            int(inputs or 0),
            int(outputs or 0),
            None if cost == b"null" or cached else _money(cost.decode()),
            None if latency == b"null" else _number(latency),
            line,
            failed=failed,
        )

    def _add_parsed(self, line: bytes, *, failed: bool) -> None:
        value = _parsed(line)
        self.cached += value.get("cached") is True
        if not failed:
            self.cut_answers += value.get("finish_reason") == "length"
            self.answers_without_text += value.get("text") == ""
        tier = value.get("tier")
        if isinstance(tier, str):
            self.tiers.add(tier)
        label = value.get("route") or value.get("model")
        if not isinstance(label, str):
            return
        usage = value.get("usage")
        tokens = usage if isinstance(usage, dict) else {}
        self._count(
            label,
            _integer(tokens.get("input_tokens")),
            _integer(tokens.get("output_tokens")),
            None if value.get("cached") is True else _money(str(_as_number(value.get("cost_usd")))),
            _as_number(value.get("latency_s")),
            line,
            failed=failed,
        )

    def _count(
        self,
        label: str,
        inputs: int,
        outputs: int,
        cost: Decimal | None,
        latency: float | None,
        line: bytes,
        *,
        failed: bool,
    ) -> None:
        route = self._routes.get(label)
        if route is None:
            if len(self._routes) >= _MOST_ROUTES:
                label = _OTHER_ROUTES
            route = self._routes.setdefault(label, LineRoute(label))
        route.rows += 1
        route.failed += failed
        route.input_tokens += inputs
        route.output_tokens += outputs
        if cost is not None:
            route.cost_usd = cost if route.cost_usd is None else route.cost_usd + cost
        if latency is not None and not failed:
            route.latency.add(latency)
        if self._spread is not None:
            self._spread.add(line, label, inputs, outputs, latency, is_priced=cost is not None, failed=failed)


def is_failed(line: bytes) -> bool:
    """Whether *line*, from an output, is that of a failed row."""
    return _is_failed(line) is not None


def failed_row(line: bytes) -> FailedRow:
    """Parse *line*, that of a failed row; members that it lacks are empty or None."""
    name, error = _match_id(line), _match_error(line, line.rfind(b',"error":{"code":'))
    if name is not None and error is not None and _match_tail(line, error.end()) is not None:
        texts = [_parsed_text(text) for text in (name[1], *error.groups())]
        return FailedRow(texts[0], str(texts[1]), str(texts[2]))
    value = _parsed(line)
    about = value.get("error")
    about = about if isinstance(about, dict) else {}
    return FailedRow(value.get("id"), str(about.get("code") or ""), str(about.get("message") or ""))


def _tail_with_parsed(line: bytes, at: int) -> re.Match[bytes] | None:
    """The match of a line with a parsed answer, if it is sure that what begins *at* is not inside that."""
    if not line.endswith(_ENDS_WITH_PARSED) or line.count(_PARSED) != 1:
        return None
    return _match_tail_with_parsed(line, at)


def _parsed(line: bytes) -> dict[str, JSON]:
    try:
        value = parse(line.decode())
    except (RawJsonError, UnicodeDecodeError):  # somebody has edited it, or its body nests too deeply
        return {}
    return value if isinstance(value, dict) else {}


def _parsed_text(text: bytes) -> JSON:
    try:
        return parse(text.decode())
    except (RawJsonError, UnicodeDecodeError):
        return text.decode("utf-8", "replace")


def _number(text: bytes) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _money(text: str) -> Decimal | None:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        return None
    # What cannot be a cost is not one: somebody has edited the line.
    return amount if amount.is_finite() and 0 <= amount <= _MOST_USD else None


def _as_number(value: JSON) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return float(value) if -_LARGEST <= value <= _LARGEST else None


def _integer(value: JSON) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
