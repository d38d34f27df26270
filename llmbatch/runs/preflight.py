"""Checks before anything is sent or written: whether the first row can be sent, and by the same model as before."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path

from llmbatch.core.errors import InputError, MalformedRowError, MissingKeyError, OutputError, UsageError
from llmbatch.core.ports import Provider, first_request
from llmbatch.core.rows import Malformed, Row
from llmbatch.inputs.format_names import ENDINGS
from llmbatch.inputs.input import Input
from llmbatch.inputs.recognize import MOST_MALFORMED, other_format, unsendable
from llmbatch.money.prices import Prices
from llmbatch.outputs.deferred import default_output
from llmbatch.runner.costs import told_unknown

__all__ = [
    "check_cache_path",
    "check_fallbacks",
    "check_first_row",
    "check_prices",
    "check_same_request",
    "last_number",
    "name_other_inputs",
]

_FEW_ROWS = 10_000
"""Rows of the input searched for the first answered row: about 0.1 s."""

_MOST_FAULTS = 5
"""Malformed rows that the error lists."""

_INPUT_SUFFIXES = frozenset({*ENDINGS, ".xlsx"})


def check_first_row(provider: Provider, rows: Input, name: str, *, limit: int | None, strict: bool) -> None:
    """Read up to the first row that can be sent; with *strict*, all of them. *name* is the input's, for messages.

    Raises:
        InputError: the input cannot be opened, all of its first 20 rows are malformed, or its first row is of another
            format; or, with *strict*, a row is malformed or the input cannot be read twice.
        UsageError: the first row needs a model that is not there; or of the first 10,000 rows none has its key, or a
            fallback can carry none.
    """
    _check_first_row(provider, rows, name, limit=limit, strict=strict)
    check_fallbacks(provider, rows, name, limit=limit)


def check_fallbacks(provider: Provider, rows: Input, name: str, *, limit: int | None) -> None:
    """Check that each fallback has what it needs and can carry one of the first 10,000 rows.

    Raises:
        UsageError: one lacks an address or a key, or knows the wire format of none of them.
    """
    _check_routes(provider)
    idle_fallbacks: Callable[[Row], dict[str, None]] | None = getattr(provider, "idle_fallbacks", None)
    if idle_fallbacks is None or not rows.is_rereadable:
        return
    idle: dict[str, None] | None = None
    with contextlib.closing(rows.peek(limit)) as items:
        for item in itertools.islice(items, _FEW_ROWS):
            if isinstance(item, Row):
                with contextlib.suppress(MalformedRowError):
                    now = idle_fallbacks(item)
                    idle = now if idle is None else {model: None for model in idle if model in now}
                if idle is not None and not idle:
                    return
    if idle:
        raise UsageError(
            f"--fallback {next(iter(idle))} can carry no row of {name}: they are in a format that it does not know",
            hint="leave it out, or name a fallback that takes the format of the rows",
        )


def _check_routes(provider: Provider) -> None:
    check_routes = getattr(provider, "check_routes", None)  # of providers with several routes
    if check_routes is not None:
        check_routes()


def _check_first_row(provider: Provider, rows: Input, name: str, *, limit: int | None, strict: bool) -> None:
    _check_routes(provider)
    if not rows.is_rereadable:
        check_model = getattr(provider, "check_model", None)  # providers of other kinds have no model to check
        if check_model is not None:
            check_model()
        if strict:
            raise InputError("strict needs an input that can be read twice", hint="save it to a file first")
        return
    faults: list[Malformed] = []
    no_key: MissingKeyError | None = None
    can_send = False
    with contextlib.closing(rows.peek(limit)) as items:
        for count, item in enumerate(items, 1):
            try:
                fault = _fault(provider, item)
            except MissingKeyError as error:
                no_key = no_key or error
            else:
                if fault is not None:
                    if count == 1:
                        refuse_other_format(name, fault, rows.unit)
                    faults.append(fault)
                elif not strict:
                    return
                else:
                    can_send = True
            if len(faults) == count == MOST_MALFORMED:
                break
            if (can_send and len(faults) >= _MOST_FAULTS) or (not can_send and count >= _FEW_ROWS):
                break
    if no_key is not None and not can_send:
        raise no_key
    if faults and not can_send:
        raise unsendable(name, faults, unit=rows.unit)
    if faults:
        shown = (f"{rows.unit} {fault.number}: {fault.code}: {fault.message}" for fault in faults[:_MOST_FAULTS])
        named = "; ".join(shown)
        raise InputError(f"{name} has malformed rows: {named}", hint="correct them, or run without --strict")


def refuse_other_format(name: str, first: Malformed, unit: str) -> None:
    """Refuse an input whose *first* row, which is malformed, shows that it is another format.

    Raises:
        InputError: it does.
    """
    error = other_format(name, first, unit=unit)
    if error is not None:
        raise error


def check_cache_path(cache: str | None, input_path: str | Path, output: str | Path | None) -> None:
    """Check that the file of ``--cache`` is neither the input nor the output, before it is created.

    Raises:
        UsageError: it is.
    """
    if cache is None:
        return
    target = default_output(input_path) if output is None else output
    for name, path in (("input", input_path), ("output", target)):
        if str(path) != "-" and Path(path).resolve() == Path(cache).resolve():
            raise UsageError(f"--cache {cache} is the {name} too", hint="name another file, such as --cache answers.db")


def check_prices(provider: Provider, rows: Input, prices: Prices, *, limit: int | None) -> None:
    """Check that each route of the first row that can be sent has a price. Of an input that is read once: nothing.

    Raises:
        UsageError: one has none.
    """
    if not rows.is_rereadable:
        return
    with contextlib.closing(rows.peek(limit)) as items:
        for item in itertools.islice(items, _FEW_ROWS):
            if not isinstance(item, Row):
                continue
            try:
                routes = provider.routes(item)
                told = told_unknown(prices, routes, provider.request(item, routes[0]))
            except (MalformedRowError, MissingKeyError):
                continue
            if told is not None:
                raise UsageError(told[0], hint=told[1])
            return


def last_number(rows: Input, limit: int | None) -> int | None:
    """The line number of the last of the first *limit* rows; None without a limit.

    Of an input that cannot be read twice, a number that is certainly not beyond it.

    Raises:
        InputError: the input cannot be read.
    """
    if limit is None or not rows.is_rereadable:
        return limit
    number = limit
    with contextlib.closing(rows.peek(limit)) as items:
        for item in items:
            number = item.number
    return number


def name_other_inputs(error: InputError, path: str | Path, output: str) -> InputError:
    """*error*, of an output that was not made from *path*, with the inputs beside it that have the same default output.

    A row changed, in most cases, because ``p.csv`` was run before ``p.jsonl``: both go to ``p.results.jsonl``.
    """
    source = Path(path)
    if str(path) == "-" or str(default_output(path)) != output:
        return error
    try:
        beside = sorted(other for other in source.parent.iterdir() if other.suffix.lower() in _INPUT_SUFFIXES)
    except OSError:
        return error
    same = [
        other.name for other in beside if other.name != source.name and _default_name(other) == _default_name(source)
    ]
    if not same:
        return error
    hint = f"{Path(output).name} is also the default output of {', '.join(same[:3])}: give each input its own (-o)"
    return InputError(f"{error.message}; its results may be those of {', '.join(same[:3])}", hint=hint, line=error.line)


def _default_name(path: Path) -> str:
    """The name of the default output of *path*, if that is a file."""
    return "" if path.is_dir() else default_output(path).name


def check_same_request(provider: Provider, rows: Input, output: str, earlier: tuple[int, str, str]) -> None:
    """Compare *earlier*, an answered row, its model and its settings, with the request that it would be now.

    Rows that name their own models may mix them: this is not an error. A line that tells no settings (of an earlier
    version, or of a provider that has none) agrees with any.

    Raises:
        OutputError: it would be sent to another model, or with another system prompt, parameters, schema or endpoint.
    """
    number, model, settings = earlier
    if number > _FEW_ROWS or not rows.is_rereadable:
        return
    with contextlib.closing(rows.peek(number)) as items:
        row = next((item for item in items if isinstance(item, Row) and item.number == number), None)
    if row is None:
        return
    try:
        routes = provider.routes(row)
        route = next((one for one in routes if model in (one.model, one.label)), routes[0])
        request = provider.request(row, route)
    except (MalformedRowError, UsageError):
        return
    now = route.model or route.label
    if now == model and settings and request.settings != settings:
        raise OutputError(
            f"{output}: row {number} was answered with another system prompt, template or schema, other parameters or "
            "another endpoint (-s, -t, --schema, -P, --endpoint)",
            hint="use the same ones, write to another file (-o), or mix both in one output (--force)",
        )
    if now != model:
        raise OutputError(
            f"{output}: row {number} was answered by {model}, and this run would send its rows to {now}",
            hint="write to another file (-o), or mix both models in one output (--force)",
        )


def _fault(provider: Provider, item: Row | Malformed) -> Malformed | None:
    if isinstance(item, Malformed):
        return item
    try:
        first_request(provider, item)
    except MalformedRowError as error:
        return Malformed(item.number, item.hash, item.id_json, error.code, str(error))
    return None
