"""Reading a whole input as a run would, and sending nothing: what is in it, what is wrong with it, what it may take.

Memory does not depend on the length of the input, but for the names of the rows (8 bytes each, bounded).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from llmbatch.cli.cost_report import CostRange
from llmbatch.cli.duplicates import SeenNames
from llmbatch.core.calls import Endpoint, Reply, Request
from llmbatch.core.errors import MalformedRowError, MissingKeyError, UsageError
from llmbatch.core.headers import Headers, header_variables
from llmbatch.core.ports import Provider, Source
from llmbatch.core.raw_json import JSON, dumps, parse
from llmbatch.core.rows import Malformed, Row
from llmbatch.core.token_estimate import input_tokens
from llmbatch.money.prices import Prices
from llmbatch.providers.catalog import PROVIDERS
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.pools import Pools, make_providers
from llmbatch.providers.resolve import ProviderSettings, tiers_of
from llmbatch.providers.several import SeveralProviders
from llmbatch.providers.structured.schema import AnswerSchema
from llmbatch.runner.options import Tier
from llmbatch.runner.tenant_keys import TenantKeys
from llmbatch.runs.local_simulator import LocalSimulator
from llmbatch.runs.shared_channel import StoreReport
from llmbatch.storage.finished_rows import FinishedRows

if TYPE_CHECKING:
    from llmbatch.cli.batch_check import BatchCheck
    from llmbatch.runs.batches.rows import BatchProvider

__all__ = ["CheckReport", "Estimate", "Finding", "estimate", "read_all", "sending_nothing"]

_SHOWN = 5
"""Line numbers named for each finding."""

_MOST_KINDS = 200
"""Routes and codes told apart; the rest are counted together."""

_OTHERS = "(others)"

_PROMPT_CHARS = 200
"""How much of the first prompt is shown."""

_SIM_URL = "http://127.0.0.1:1/v1"
"""Stands for the simulated provider, which need not run."""

_FIRST_AT_ONCE = 8
"""Calls at once with which an adaptive concurrency begins."""

_CALL_SECONDS = 2.0
"""What a call is taken to last where nothing is known about it."""


@dataclass(slots=True)
class Finding:
    """How often something was found, and the first lines it was found in."""

    count: int = 0
    lines: list[int] = field(default_factory=list)
    example: str = ""
    """The first one's message or name."""

    def add(self, line: int, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.lines) < _SHOWN:
            self.lines.append(line)
        self.example = self.example or example


Bound = Literal["concurrency", "rpm", "tpm", "rpd"]
"""What bounds the time of a run: calls in flight, or a limit that the user set."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long the rows that are left may take, and what bounds it."""

    seconds: float
    bound_by: Bound
    call_seconds: float
    """What one call is assumed to last."""


@dataclass(slots=True)
class CheckReport:
    """What an input holds. Token counts are estimates: four bytes a token, and what rows allow the model to write."""

    rows: int = 0
    malformed: dict[str, Finding] = field(default_factory=dict)
    endpoints: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    missing_keys: dict[str, str] = field(default_factory=dict)
    """By route of :attr:`routes` whose key is not set, what is missing: a run fails its rows."""
    duplicates: Finding = field(default_factory=Finding)
    duplicates_complete: bool = True
    """Whether every name could be compared with every other."""
    input_tokens: int = 0
    output_tokens_most: int = 0
    done_success: int = 0
    done_failed: int = 0
    rows_left: int = 0
    """Rows that a run would still send, malformed ones not among them."""
    tokens_left: int = 0
    costs: CostRange = field(default_factory=lambda: CostRange(Prices()))
    """What the rows that are left may cost."""
    first_prompt: str = ""
    """The start of what the first row that is a request asks; empty for a batch row."""
    unit: str = "line"
    """What the numbers of rows count."""
    cut_off: int | None = None
    """Number of a last row whose end is missing: a run gives it no result until it is complete. None: there is none."""
    batches: BatchCheck | None = None
    """How the rows that are left would be cut into batches; None: they are sent live."""
    warnings: list[str] = field(default_factory=list)
    """Settings that have no effect, and columns that are not sent."""
    store: StoreReport | None = None
    """What was found at the address of ``--shared``."""

    @property
    def malformed_rows(self) -> int:
        """How many rows are no request."""
        return sum(finding.count for finding in self.malformed.values())

    def to_json(self) -> dict[str, JSON]:
        """The same as JSON values."""
        return {
            "rows": self.rows,
            "malformed": self.malformed_rows,
            "malformed_by_code": {
                code: {"count": found.count, "lines": list[JSON](found.lines), "example": found.example}
                for code, found in self.malformed.items()
            },
            "cut_off": self.cut_off,
            "endpoints": dict[str, JSON](self.endpoints),
            "routes": dict[str, JSON](self.routes),
            "duplicate_ids": {
                "count": self.duplicates.count,
                "lines": list[JSON](self.duplicates.lines),
                "example": self.duplicates.example or None,
                "complete": self.duplicates_complete,
            },
            "input_tokens": self.input_tokens,
            "output_tokens_most": self.output_tokens_most,
            "done_success": self.done_success,
            "done_failed": self.done_failed,
            "rows_left": self.rows_left,
            "tokens_left": self.tokens_left,
            "cost_usd": self.costs.to_json(),
            "unpriced_rows": self.costs.unpriced_rows,
            **({} if self.batches is None else {"batches": self.batches.to_json()}),
            "first_prompt": self.first_prompt or None,
            **({} if self.store is None else {"shared": self.store.to_json()}),
            "warnings": list[JSON](self.warnings),
        }


async def read_all(
    source: Source,
    provider: Provider,
    *,
    finished: FinishedRows | None = None,
    retry_failed: bool = False,
    tenants: TenantKeys | None = None,
    prices: Prices | None = None,
    batches: BatchCheck | None = None,
    progress: Callable[[int, float | None], None] | None = None,
    sender: Provider | None = None,
) -> CheckReport:
    """Read *source* to its end and let *provider* prepare each row; *tenants* sees every row that is a request.

    *sender*, which needs the keys of a run, tells of which routes they are missing.

    *finished*: rows that have their line already; with *retry_failed* those that failed, or whose lines a run
    would remove, are left. *progress* is told now and then how many rows were read, and which part of the input.

    Raises:
        InputError: the input cannot be read.
        UsageError: a row has no model, or names one that cannot be reached; the message names its line.
    """
    costs = CostRange(prices or Prices(), in_batches=batches is not None)
    report = CheckReport(costs=costs, unit=str(getattr(source, "unit", "line")), batches=batches)
    names = SeenNames()

    def is_done(number: int) -> bool:
        if finished is None or not finished.is_done(number):
            return False
        is_resent = finished.resent is not None and number in finished.resent
        return not (retry_failed and (is_resent or finished.has_failed(number)))

    while not source.exhausted:
        row = source.take()
        if row is None:
            await source.wait()
            continue
        known = len(report.routes)
        request = _take_in(report, row, provider, names, is_done)
        if sender is not None and isinstance(row, Row) and len(report.routes) > known:
            _look_for_key(report, row, sender)
        if request is not None and tenants is not None and isinstance(row, Row):
            tenants.label(request.route.label, row)
        if progress is not None and report.rows % 1000 == 0:
            progress(report.rows, source.fraction)
            await asyncio.sleep(0)  # so that Ctrl-C is heard
    report.duplicates_complete = not names.is_full
    if finished is not None:
        report.done_success, report.done_failed = finished.success, finished.failed
    return report


def estimate(
    report: CheckReport,
    *,
    concurrency: int,
    rpm: float | None,
    tpm: float | None,
    rpd: float | None = None,
    adapts: bool = False,
    call_seconds: float = _CALL_SECONDS,
) -> Estimate:
    """The time for the rows that are left: the slowest of what the bounds allow.

    If the concurrency *adapts*, it is doubled every other round until it is reached.
    """
    rounds, left = 0, report.rows_left
    at_once = min(_FIRST_AT_ONCE, concurrency) if adapts else concurrency
    while at_once < concurrency and left > 0:
        rounds, left = rounds + 1, left - at_once
        if rounds % 2 == 0:
            at_once = min(2 * at_once, concurrency)
    rounds += -(-max(0, left) // concurrency)
    bounds: list[tuple[float, Bound]] = [(rounds * call_seconds, "concurrency")]
    if rpm is not None:
        bounds.append((report.rows_left * 60 / rpm, "rpm"))
    if tpm is not None:
        bounds.append((report.tokens_left * 60 / tpm, "tpm"))
    if rpd is not None and report.rows_left > 0:
        bounds.append((86_400.0 * ((report.rows_left - 1) // max(1.0, rpd)), "rpd"))
    seconds, bound_by = max(bounds, key=lambda bound: bound[0])
    return Estimate(seconds, bound_by, call_seconds)


class _NoTransport:
    """Carries nothing."""

    async def post(self, request: Request, *, timeout: float) -> Reply:  # noqa: ASYNC109
        """Refuse."""
        raise AssertionError("a check sends nothing")

    async def aclose(self) -> None:
        """Nothing is open."""


def sending_nothing(
    *,
    model: str | None,
    base_url: str | None,
    api_key_env: str | None,
    headers: Headers,
    endpoint: Endpoint | None,
    system: str | None,
    shape: str,
    params: Mapping[str, JSON],
    fallback: Sequence[str],
    tier: Tier,
    pools: Pools,
    allow_files: str | None,
    server_files: bool,
    schema: AnswerSchema | None = None,
    environ: Mapping[str, str],
    needs_keys: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> HttpProvider | SeveralProviders:
    """A provider that prepares rows as a run's does, and needs no HTTP client, nor keys unless *needs_keys*.

    *warn* is told of columns that are not sent.

    Raises:
        UsageError: a value cannot be meant.
    """
    variables = [api_key_env or "", *header_variables(headers)]
    variables += [route.api_key_env for routes in pools.values() for route in routes if route.api_key_env]
    connection = ProviderSettings(
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        endpoint=endpoint,
        system=system,
        shape=shape,
        params={name: dumps(value) for name, value in params.items()},
        headers=dict(headers),
        environ=environ if needs_keys else _keyless(environ, variables),
        allow_files=allow_files,
        server_files=server_files,
        tiers=tiers_of(tier),
        schema=schema,
        sim_url=lambda: _SIM_URL,
        sim_scenarios=LocalSimulator.scenarios,
    )
    return make_providers(
        connection, lambda of: HttpProvider(of, _NoTransport(), warn=warn), fallback=fallback, pools=pools
    )


def _keyless(environ: Mapping[str, str], others: Sequence[str]) -> dict[str, str]:
    # A placeholder for every key that is not set: what is not sent needs none.
    variables = {provider.key_env for provider in PROVIDERS.values() if provider.needs_key} | set(others)
    placeholders = {name: "unused" for name in variables if name and not environ.get(name, "").strip()}
    return {**environ, **placeholders}


def _take_in(
    report: CheckReport, row: Row | Malformed, provider: Provider, names: SeenNames, is_done: Callable[[int], bool]
) -> Request | None:
    report.rows += 1
    if row.id_json != f'"row-{row.number}"' and not names.add(row.id_json):
        report.duplicates.add(row.number, row.id_json)
    if isinstance(row, Malformed):
        _finding(report.malformed, row.code).add(row.number, row.message)
        return None
    try:
        routes = provider.routes(row)
        request = provider.request(row, routes[0])
    except MalformedRowError as error:
        _finding(report.malformed, error.code).add(row.number, str(error))
        return None
    except UsageError as error:
        raise UsageError(f"{report.unit} {row.number}: {error.message}", hint=error.hint) from error
    if not report.routes:
        report.first_prompt = _asked(row)
    _count(report.endpoints, request.endpoint)
    _count(report.routes, " or ".join(route.label for route in routes))
    given = input_tokens(request.body)
    report.input_tokens += given
    report.output_tokens_most += max(0, request.tokens - given)
    if not is_done(row.number):
        report.rows_left += 1
        report.tokens_left += request.tokens
        report.costs.add(routes[0], request)
        if report.batches is not None:
            report.batches.add(row, cast("BatchProvider", provider))
    return request


def _look_for_key(report: CheckReport, row: Row, sender: Provider) -> None:
    """Note whether the key of *row*, the first of its route, is missing."""
    try:
        sender.routes(row)
    except MissingKeyError as error:
        report.missing_keys[next(reversed(report.routes))] = error.message
    except UsageError:
        pass  # what is wrong beside the key has been told


def _asked(row: Row) -> str:
    """The start of the prompt of *row*, or of its messages as JSON."""
    text = next((row.fields[name] for name in ("prompt", "messages", "input") if name in row.fields), "")
    asked = str(parse(text)) if text.startswith('"') else text
    return asked if len(asked) <= _PROMPT_CHARS else asked[: _PROMPT_CHARS - 1] + "…"


def _finding(findings: dict[str, Finding], code: str) -> Finding:
    if code not in findings and len(findings) >= _MOST_KINDS:
        code = _OTHERS
    return findings.setdefault(code, Finding())


def _count(counter: Counter[str], name: str) -> None:
    if name not in counter and len(counter) >= _MOST_KINDS:
        name = _OTHERS
    counter[name] += 1
