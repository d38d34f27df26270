"""llmbatch: large batches of LLM prompts through a circuit breaker.

An outage parks rows instead of burning them; every row ends with exactly one line. The names below are the library;
they are loaded when first used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmbatch.batch import BatchRunner as BatchRunner
    from llmbatch.breaker import BreakerMetrics as BreakerMetrics
    from llmbatch.breaker import BreakerPolicy as BreakerPolicy
    from llmbatch.breaker import BreakerRegistry as BreakerRegistry
    from llmbatch.breaker import CircuitBreaker as CircuitBreaker
    from llmbatch.breaker import CircuitOpenError as CircuitOpenError
    from llmbatch.breaker import Judgement as Judgement
    from llmbatch.breaker import Permit as Permit
    from llmbatch.breaker import Retry as Retry
    from llmbatch.errors import InputError as InputError
    from llmbatch.errors import LlmbatchError as LlmbatchError
    from llmbatch.errors import OutputError as OutputError
    from llmbatch.errors import StoppedError as StoppedError
    from llmbatch.errors import UsageError as UsageError
    from llmbatch.errors import WriteError as WriteError
    from llmbatch.events import Event as Event
    from llmbatch.events import Observer as Observer
    from llmbatch.llm_errors import judge_llm_error as judge_llm_error
    from llmbatch.records import Result as Result
    from llmbatch.records import Usage as Usage
    from llmbatch.report.summary import Summary as Summary

__version__ = "0.1.0"

_HOMES = {
    "BatchRunner": "llmbatch.batch",
    "BreakerMetrics": "llmbatch.breaker",
    "BreakerPolicy": "llmbatch.breaker",
    "BreakerRegistry": "llmbatch.breaker",
    "CircuitBreaker": "llmbatch.breaker",
    "CircuitOpenError": "llmbatch.breaker",
    "Event": "llmbatch.events",
    "InputError": "llmbatch.errors",
    "judge_llm_error": "llmbatch.llm_errors",
    "Judgement": "llmbatch.breaker",
    "LlmbatchError": "llmbatch.errors",
    "Observer": "llmbatch.events",
    "OutputError": "llmbatch.errors",
    "Permit": "llmbatch.breaker",
    "Result": "llmbatch.records",
    "Retry": "llmbatch.breaker",
    "StoppedError": "llmbatch.errors",
    "Summary": "llmbatch.report.summary",
    "Usage": "llmbatch.records",
    "UsageError": "llmbatch.errors",
    "WriteError": "llmbatch.errors",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'llmbatch' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
