"""``llmbatch check``: read everything, send nothing, say what a run would do.

Rows are read by :mod:`llmbatch.cli.input_report`; an output that is there is only looked at.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmbatch.cli.input_report import CheckReport, Estimate, Finding, estimate, read_all, sending_nothing
from llmbatch.cli.settings import Settings, output_of, schema_of
from llmbatch.cli.terminal import print_note, print_out, shown
from llmbatch.core.errors import InputError, MissingKeyError, OutputError, UsageError
from llmbatch.core.shards import WHOLE, Shard
from llmbatch.display.phrases import count, duration, plural
from llmbatch.inputs.input import Input, open_input
from llmbatch.money.prices import Prices
from llmbatch.outputs.joined import OpenResults, files_of
from llmbatch.outputs.lines import cut_rows, failed_rows, first_success
from llmbatch.outputs.parts import has_parts, is_part
from llmbatch.outputs.scan import scan
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.several import SeveralProviders
from llmbatch.providers.structured.schema import AnswerSchema
from llmbatch.runner.tenant_keys import TenantKeys, missing_key_text
from llmbatch.runs.cut_answers import is_cut_answer
from llmbatch.runs.preflight import (
    check_cache_path,
    check_fallbacks,
    check_first_row,
    check_prices,
    check_same_request,
    name_other_inputs,
)
from llmbatch.runs.shared_channel import StoreReport, look_at_store
from llmbatch.storage.filesystem import FILESYSTEM, O_CLOEXEC
from llmbatch.storage.finished_rows import FailedRows, FinishedRows, RowSet

if TYPE_CHECKING:
    from llmbatch.cli.batch_check import BatchCheck

__all__ = ["check", "keyless_provider"]

_PROGRESS_SECONDS = 5.0


def check(settings: Settings) -> int:
    """Check ``settings.input`` and give the exit code: 1 where rows are malformed, or the last one is cut off.

    Raises:
        UsageError: the input cannot be read, none of its rows can be sent, a row has no model, or, with ``strict``, a
            row is malformed.
    """
    output = output_of(settings)
    report = asyncio.run(_read(settings, output))
    time = estimate(
        report,
        concurrency=settings.concurrency,
        adapts=settings.adapts,
        rpm=settings.rpm,
        tpm=settings.tpm,
        rpd=settings.rpd,
    )
    if settings.json:
        value = {"input": settings.input, "output": output, **report.to_json(), "estimate": asdict(time)}
        print_out(json.dumps(value))
    elif not settings.quiet:
        print_out("\n".join(_lines(settings, report, time, output)))
    if report.malformed and settings.strict:
        found = "; ".join(f"{_where(finding, report.unit)}: {code}" for code, finding in report.malformed.items())
        raise InputError(
            f"{settings.input} has {plural(report.malformed_rows, 'malformed row')}: {found}",
            hint="fix them, or run without --strict",
        )
    return 1 if report.malformed or report.cut_off is not None else 0


async def _read(settings: Settings, output: str) -> CheckReport:
    warnings: list[str] = []
    store = None if settings.shared is None else await look_at_store(settings.shared, os.environ)
    check_cache_path(settings.cache, settings.input, output)
    prices = Prices.read(settings.prices)
    schema = schema_of(settings)
    provider = keyless_provider(settings, schema, warn=warnings.append)
    tenants = None if settings.circuit_key is None else TenantKeys(settings.circuit_key)
    shape = settings.shape
    shard = WHOLE if settings.shard is None or settings.shard.is_any else settings.shard
    opened = open_input(settings.input, output=output, input_format=settings.input_format, shape=shape, shard=shard)
    with opened as rows:
        name, sender = settings.input, None
        try:
            sender = keyless_provider(settings, schema, needs_keys=True)
            check_first_row(sender, rows, name, limit=settings.limit, strict=False)
        except (InputError, MissingKeyError):
            raise
        except UsageError:
            pass  # reading all of it finds it again, and tells its line
        check_fallbacks(provider, rows, name, limit=settings.limit)
        if settings.via == "batch":
            check_via_batch(settings, provider, rows, prices, output)
        if settings.max_cost is not None:
            check_prices(provider, rows, prices, limit=settings.limit)
        earlier = None if settings.overwrite or settings.force else _earlier(output)
        if earlier is not None:
            check_same_request(provider, rows, output, earlier)
    source = rows.rows(None, limit=settings.limit, spool=None)
    try:
        finished = None if settings.overwrite else _finished(output, shard)
        if finished is not None:
            if settings.retry_failed and settings.require_finish:
                finished.resent = _cut_rows(output)
            try:
                rows.verify(finished)
            except InputError as error:
                raise name_other_inputs(error, settings.input, output) from None
            finished.remove(finished.corrected)
        report = await read_all(
            source,
            provider,
            finished=finished,
            retry_failed=settings.retry_failed,
            tenants=tenants,
            prices=prices,
            batches=_batches(settings, prices),
            progress=_progress(settings),
            sender=sender,
        )
    finally:
        await source.aclose()
    missing_key = "" if tenants is None or not tenants.missing else missing_key_text(tenants.missing)
    report.store, report.cut_off = store, source.torn_line
    no_keys = [
        f"{route}: {what}; a run would fail its {plural(report.routes[route], 'row')} with the code no_key"
        for route, what in report.missing_keys.items()
    ]
    report.warnings = [
        text for text in (*warnings, provider.models.unused(settings.model), missing_key, *no_keys) if text
    ]
    return report


def check_via_batch(
    settings: Settings, provider: HttpProvider | SeveralProviders, rows: Input, prices: Prices, output: str
) -> None:
    """Refuse what a run over batch APIs would refuse.

    Raises:
        UsageError: what, and what to type.
    """
    from llmbatch.runs.batches.start import check_batch_options, check_batch_price, check_batch_rows

    check_batch_options(settings, settings.input, output, model=settings.model, cache=settings.cache)
    check_batch_price(prices, settings, check_batch_rows(provider, rows, settings.input, limit=settings.limit))


def _batches(settings: Settings, prices: Prices) -> BatchCheck | None:
    if settings.via == "live":
        return None
    from llmbatch.cli.batch_check import BatchCheck

    return BatchCheck(settings, prices)


def keyless_provider(
    settings: Settings,
    schema: AnswerSchema | None,
    *,
    needs_keys: bool = False,
    warn: Callable[[str], None] = lambda text: None,
) -> HttpProvider | SeveralProviders:
    """A provider that makes the requests of a run with these *settings* and sends none; see :func:`sending_nothing`.

    Raises:
        UsageError: a value cannot be meant.
    """
    return sending_nothing(
        model=settings.model,
        base_url=settings.base_url,
        api_key_env=settings.api_key_env,
        headers=settings.headers or (),
        endpoint=settings.endpoint,
        system=settings.system or None,
        shape=settings.shape.settings,
        params=settings.params,
        fallback=settings.fallback or (),
        tier=settings.tier,
        pools=settings.pools,
        allow_files=settings.allow_files,
        server_files=settings.server_files,
        schema=schema,
        environ=os.environ,
        needs_keys=needs_keys,
        warn=warn,
    )


def _finished(output: str, shard: Shard) -> FinishedRows | None:
    """The rows of *shard* that *output*, or another part in its folder, has.

    Without locking or mending any: a run may be writing to it now.
    """
    folder = Path(output).parent
    if is_part(output) and has_parts(folder):
        with OpenResults(files_of(folder), str(folder), shard=shard) as results:
            all_failed = failed_rows(results.fd, results.end_bytes, results.disk)
            results.finished.failed_rows = lambda: all_failed
            return results.finished
    fd = _open(output)
    if fd is None:
        return None
    try:
        found = scan(fd, output, shard=shard)
        finished = found.finished
        failed = failed_rows(fd, found.end_bytes) if finished.failed else FailedRows()
        finished.failed_rows = lambda: failed
        return finished
    finally:
        os.close(fd)


def _cut_rows(output: str) -> RowSet:
    """The rows of *output* whose answers were cut at their token limit."""
    rows = RowSet()
    fd = _open(output)
    if fd is not None:
        try:
            is_cut = functools.partial(is_cut_answer, reads_body=True)
            for number in cut_rows(fd, scan(fd, output).end_bytes, FILESYSTEM, is_cut, None):
                rows.add(number)
        finally:
            os.close(fd)
    return rows


def _earlier(output: str) -> tuple[int, str, str] | None:
    """The first row that *output* has an answer of, its model and settings."""
    fd = _open(output)
    if fd is None:
        return None
    try:
        return first_success(fd, scan(fd, output).end_bytes, output)
    finally:
        os.close(fd)


def _open(output: str) -> int | None:
    """Open *output* for reading; None if it is no regular file."""
    if output == "-":
        return None
    try:
        fd = FILESYSTEM.open(output, os.O_RDONLY | O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise OutputError(f"{output} cannot be read: {why}", hint="check the path and its permissions") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    return None


class _Progress:
    """Says now and then how far reading is; nothing at all for an input that is read in a moment."""

    def __init__(self) -> None:
        self._next = asyncio.get_running_loop().time() + _PROGRESS_SECONDS

    def __call__(self, rows: int, fraction: float | None) -> None:
        """Take how far reading is."""
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + _PROGRESS_SECONDS
            part = "" if fraction is None else f", {100 * fraction:.0f} %"
            print_note(f"checked {rows:,} rows{part}")


def _progress(settings: Settings) -> _Progress | None:
    return None if settings.quiet or settings.progress in ("none", "json") else _Progress()


def _lines(settings: Settings, report: CheckReport, time: Estimate, output: str) -> list[str]:
    facts = [("rows", f"{report.rows:,} in {shown(settings.input)}, {report.malformed_rows:,} malformed")]
    if report.routes:
        facts.append(("endpoints", _counts(report.endpoints)))
        facts.append(("routes", _counts(report.routes)))
    for code, finding in report.malformed.items():
        where = _where(finding, report.unit)
        facts.append(("malformed", f"{finding.count:,} {code}, {where}: {shown(finding.example)[:200]}"))
    if report.cut_off is not None:
        quote = "" if report.unit == "line" else " (is a quote not closed?)"
        where = f"{report.unit} {report.cut_off:,}, the last one"
        why = f"{where}, has no end{quote}: a run gives it no result until it has one"
        facts.append(("cut off", why))
    if report.duplicates.count:
        found = report.duplicates
        where = _where(found, report.unit)
        facts.append(("same ids", f"{found.count:,}, {where}, such as {shown(found.example)[:80]}; they harm nothing"))
    if not report.duplicates_complete:
        facts.append(("same ids", "too many names to compare them all"))
    if report.store is not None:
        facts.append(("shared store", shown(_store(report.store))))
    facts += [("warning", shown(text)) for text in report.warnings]
    if report.done_success or report.done_failed:
        done = f"{report.done_success:,} success, {report.done_failed:,} failed in {shown(output)}"
        facts.append(("done already", f"{done}; {plural(report.rows_left, 'row')} left"))
    if report.first_prompt:
        facts.append(("first prompt", shown(report.first_prompt)))
    if report.rows_left:
        tokens = f"about {count(report.input_tokens)} in, {count(report.output_tokens_most)} out at most"
        facts.append(("tokens", f"{tokens}, by each row's own bound or else a usual answer"))
        if report.batches is not None:
            facts += report.batches.lines()
            facts.append(("time", "batches take minutes to a day; --deadline sends the rest live"))
        else:
            facts.append(("time", f"about {duration(time.seconds)}, {_bound(settings, time)}"))
        facts += [("cost", shown(text)) for text in report.costs.lines()]
    return [f"{label:<14}{text}" for label, text in facts] + [_last(report)]


def _store(store: StoreReport) -> str:
    if store.away:
        return f"{store.shown} cannot be reached ({store.away}): each process would go on with its own circuits"
    return f"{store.shown}, {store.server}" if store.server else store.shown


def _bound(settings: Settings, time: Estimate) -> str:
    if time.bound_by == "rpm":
        return f"bound by --rpm {settings.rpm:g}"
    if time.bound_by == "tpm":
        return f"bound by --tpm {settings.tpm:g}"
    if time.bound_by == "rpd":
        return f"bound by --rpd {settings.rpd:g}"
    at_once = f"{settings.concurrency} run at once"
    if settings.adapts:
        at_once = f"as many run at once as the provider takes, up to {settings.concurrency:,}"
    return f"if a call takes {time.call_seconds:g} s and {at_once}"


def _last(report: CheckReport) -> str:
    if report.malformed:
        return "nothing was sent; malformed rows would become failed lines, all others would be sent"
    if report.cut_off is not None:
        return "nothing was sent; the input is not complete"
    return "nothing was sent; the input is fine" if report.rows else "nothing was sent; the input has no rows"


def _counts(counter: Counter[str]) -> str:
    shown_first = counter.most_common(8)
    text = ", ".join(f"{shown(name)} {number:,}" for name, number in shown_first)
    return text + (f", and {len(counter) - 8} more" if len(counter) > 8 else "")


def _where(finding: Finding, unit: str) -> str:
    lines = ", ".join(map(str, finding.lines))
    return f"{unit}{'' if finding.count == 1 else 's'} {lines}{', …' if finding.count > len(finding.lines) else ''}"
