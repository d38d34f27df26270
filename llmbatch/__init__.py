"""llmbatch: large batches of LLM prompts through a circuit breaker.

An outage parks rows instead of burning them; every row ends with exactly one line. The names below are the library;
they are loaded when first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.breaker import BreakerMetrics as BreakerMetrics
    from llmbatch.breaker import BreakerPolicy as BreakerPolicy
    from llmbatch.breaker import BreakerRegistry as BreakerRegistry
    from llmbatch.breaker import CircuitBreaker as CircuitBreaker
    from llmbatch.breaker import CircuitOpenError as CircuitOpenError
    from llmbatch.breaker import Judgement as Judgement
    from llmbatch.breaker import Permit as Permit
    from llmbatch.breaker import Retry as Retry
    from llmbatch.core.calls import Outcome as Outcome
    from llmbatch.core.calls import Reply as Reply
    from llmbatch.core.calls import Request as Request
    from llmbatch.core.calls import Route as Route
    from llmbatch.core.calls import Usage as Usage
    from llmbatch.core.errors import InputError as InputError
    from llmbatch.core.errors import LlmbatchError as LlmbatchError
    from llmbatch.core.errors import MalformedRowError as MalformedRowError
    from llmbatch.core.errors import MissingKeyError as MissingKeyError
    from llmbatch.core.errors import OutputError as OutputError
    from llmbatch.core.errors import RowFailedError as RowFailedError
    from llmbatch.core.errors import StoppedError as StoppedError
    from llmbatch.core.errors import TransportError as TransportError
    from llmbatch.core.errors import UsageError as UsageError
    from llmbatch.core.errors import WriteError as WriteError
    from llmbatch.core.events import Event as Event
    from llmbatch.core.events import Observer as Observer
    from llmbatch.core.ports import Budget as Budget
    from llmbatch.core.ports import Provider as Provider
    from llmbatch.core.ports import Sink as Sink
    from llmbatch.core.ports import Source as Source
    from llmbatch.core.ports import Transport as Transport
    from llmbatch.core.rows import Result as Result
    from llmbatch.core.rows import Row as Row
    from llmbatch.integrations.llm_errors import judge_llm_chunk as judge_llm_chunk
    from llmbatch.integrations.llm_errors import judge_llm_error as judge_llm_error
    from llmbatch.integrations.llm_errors import judge_llm_result as judge_llm_result
    from llmbatch.peers.shared_board import LocalBoard as LocalBoard
    from llmbatch.peers.shared_board import RedisBoard as RedisBoard
    from llmbatch.report.summary import Summary as Summary
    from llmbatch.runner.options import RunOptions as RunOptions
    from llmbatch.runs.batch_runner import BatchRunner as BatchRunner
    from llmbatch.runs.job import run_job as run_job
    from llmbatch.runs.ray.llm_batch import LLMBatch as LLMBatch
    from llmbatch.runs.streaming import ResultStream as ResultStream
    from llmbatch.runs.sync_stream import SyncResultStream as SyncResultStream
    from llmbatch.storage.filesystem import Filesystem as Filesystem

__version__ = "0.1.0"

_HOMES = {
    "Budget": "llmbatch.core.ports",
    "Filesystem": "llmbatch.storage.filesystem",
    "MalformedRowError": "llmbatch.core.errors",
    "MissingKeyError": "llmbatch.core.errors",
    "Outcome": "llmbatch.core.calls",
    "Provider": "llmbatch.core.ports",
    "Reply": "llmbatch.core.calls",
    "Request": "llmbatch.core.calls",
    "Route": "llmbatch.core.calls",
    "Row": "llmbatch.core.rows",
    "RunOptions": "llmbatch.runner.options",
    "Sink": "llmbatch.core.ports",
    "Source": "llmbatch.core.ports",
    "Transport": "llmbatch.core.ports",
    "TransportError": "llmbatch.core.errors",
    "run_job": "llmbatch.runs.job",
    "BatchRunner": "llmbatch.runs.batch_runner",
    "BreakerMetrics": "llmbatch.breaker",
    "BreakerPolicy": "llmbatch.breaker",
    "BreakerRegistry": "llmbatch.breaker",
    "CircuitBreaker": "llmbatch.breaker",
    "CircuitOpenError": "llmbatch.breaker",
    "Event": "llmbatch.core.events",
    "InputError": "llmbatch.core.errors",
    "judge_llm_error": "llmbatch.integrations.llm_errors",
    "judge_llm_chunk": "llmbatch.integrations.llm_errors",
    "judge_llm_result": "llmbatch.integrations.llm_errors",
    "Judgement": "llmbatch.breaker",
    "LocalBoard": "llmbatch.peers.shared_board",
    "RedisBoard": "llmbatch.peers.shared_board",
    "LLMBatch": "llmbatch.runs.ray.llm_batch",
    "LlmbatchError": "llmbatch.core.errors",
    "Observer": "llmbatch.core.events",
    "OutputError": "llmbatch.core.errors",
    "Permit": "llmbatch.breaker",
    "Result": "llmbatch.core.rows",
    "ResultStream": "llmbatch.runs.streaming",
    "RowFailedError": "llmbatch.core.errors",
    "SyncResultStream": "llmbatch.runs.sync_stream",
    "Retry": "llmbatch.breaker",
    "StoppedError": "llmbatch.core.errors",
    "Summary": "llmbatch.report.summary",
    "Usage": "llmbatch.core.calls",
    "UsageError": "llmbatch.core.errors",
    "WriteError": "llmbatch.core.errors",
}

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # or a type checker takes every name for one of these

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'llmbatch' has no attribute {name!r}")
        value = getattr(import_module(home), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
