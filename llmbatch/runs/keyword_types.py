"""The keywords of :class:`~llmbatch.runs.batch_runner.BatchRunner`, for type checkers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from llmbatch.core.calls import Endpoint
from llmbatch.core.events import Event, Observer
from llmbatch.core.ports import Transport
from llmbatch.runner.options import OnInterrupt, OnOutage, Tier, Via

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from llmbatch.breaker.classify import ErrorJudge, ResultJudge
    from llmbatch.providers.structured.schema import AnswerSchema
    from llmbatch.storage.filesystem import Filesystem

__all__ = ["Keywords", "Options"]


class Options(TypedDict, total=False):
    """The keywords of :class:`BatchRunner` that say how rows are sent; see :class:`RunOptions`."""

    concurrency: int | str
    rpm: float | None
    tpm: float | None
    rpd: float | None
    ignore_rate_headers: bool
    timeout: float
    max_attempts: int
    failure_threshold: int
    recovery_timeout: float
    success_threshold: int
    on_outage: OnOutage
    max_outage: float | None
    circuit_key: str | None
    shared: str | None
    tier: Tier
    max_cost: Decimal | float | None
    require_finish: bool
    seed: int | None
    via: Via
    deadline: float | None
    detach: bool
    on_interrupt: OnInterrupt
    chunk_rows: int | None
    chunk_mb: float | None
    queue_tokens: int | None
    keep_remote: bool


class Keywords(Options, total=False):
    """All keywords of :class:`BatchRunner`, for its overloads."""

    base_url: str | None
    proxy: str | None
    api_key_env: str | None
    headers: Mapping[str, str] | None
    endpoint: Endpoint | None
    system: str | None
    template: str | None
    prompt_column: str | None
    system_column: str | None
    id_column: str | None
    keep: Sequence[str] | None
    params: Mapping[str, object] | None
    fallback: Sequence[str] | None
    pools: Mapping[str, object] | None
    cache: str | Path | None
    allow_files: str | Path | None
    server_files: bool
    prices: str | Path | None
    schema: type[Any] | Mapping[str, Any] | str | Path | AnswerSchema | None
    schema_lenient: bool
    repair: int
    observers: Sequence[Observer | Callable[[Event], object]]
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    display: bool
    canary: object
    judge_error: ErrorJudge | None
    judge_result: ResultJudge | None
    max_answer_memory: int
    environ: Mapping[str, str] | None
    transport: Transport | None
    filesystem: Filesystem | None
