"""What one library did in one situation: passed or not, a word for the table, a sentence for the record."""

from __future__ import annotations

from dataclasses import dataclass

from breaker_peers import Circuit


@dataclass(frozen=True, slots=True)
class Finding:
    """``passed`` None: the library has no such call, so nothing could go wrong."""

    passed: bool | None
    word: str
    fact: str


def passes(fact: str) -> Finding:
    return Finding(True, "pass", fact)


def fails(word: str, fact: str) -> Finding:
    return Finding(False, word, fact)


def lacks(fact: str) -> Finding:
    return Finding(None, "-", fact)


def wait_told(circuit: Circuit, error: BaseException | None) -> float | None:
    """Seconds that a refusal tells its caller to wait; None: it tells none."""
    return circuit.wait(error) if circuit.wait is not None and isinstance(error, Exception) else None
