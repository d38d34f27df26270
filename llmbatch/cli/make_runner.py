"""The runner that the settings of a command describe."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from llmbatch.cli.monitoring import Telemetry
from llmbatch.cli.settings import Settings, schema_of
from llmbatch.core.events import Event, Observer
from llmbatch.runs.file_options import FileOptions
from llmbatch.runs.split_run import SplitRunner

__all__ = ["build_runner", "file_options_of", "keywords_of"]


def build_runner(
    settings: Settings,
    observers: Sequence[Observer | Callable[[Event], object]],
    telemetry: Telemetry | None = None,
    *,
    requests_today: tuple[int, float] | None = None,
) -> SplitRunner:
    """The runner that the settings describe. *requests_today*: see :class:`~llmbatch.runner.earlier.EarlierRuns`.

    Raises:
        UsageError: something given is wrong.
    """
    runner = SplitRunner(
        **keywords_of(settings),
        schema=schema_of(settings),
        observers=observers,
        environ=os.environ,
        tracer_provider=None if telemetry is None else telemetry.tracer_provider,
        meter_provider=None if telemetry is None else telemetry.meter_provider,
        display=False,
    )
    if requests_today is not None:
        runner.count_for_rpd(requests_today)
    return runner


def keywords_of(settings: Settings) -> dict[str, Any]:
    """What the settings say of :class:`~llmbatch.BatchRunner`, without what belongs to one process, and the schema."""
    return {
        "model": settings.model,
        "base_url": settings.base_url,
        "proxy": settings.proxy,
        "api_key_env": settings.api_key_env,
        "headers": dict(settings.headers or ()),
        "endpoint": settings.endpoint,
        "system": settings.system or None,
        "template": settings.template,
        "prompt_column": settings.prompt_column,
        "system_column": settings.system_column,
        "id_column": settings.id_column,
        "keep": settings.keep or (),
        "params": settings.params,
        "fallback": settings.fallback or (),
        "pools": settings.pools,
        "cache": settings.cache,
        "allow_files": settings.allow_files,
        "server_files": settings.server_files,
        "prices": settings.prices,
        "schema_lenient": settings.schema_lenient,
        "repair": settings.repair,
        "max_answer_memory": settings.max_answer_memory,
        **settings.run_options(),
    }


def file_options_of(settings: Settings) -> FileOptions:
    """What a run does with its files, as the settings say."""
    return FileOptions(
        limit=settings.limit,
        retry_failed=settings.retry_failed,
        require_finish=settings.require_finish,
        overwrite=settings.overwrite,
        strict=settings.strict,
        force=settings.force,
        fsync=settings.fsync,
        lock=settings.lock,
        input_format=settings.input_format,
    )
