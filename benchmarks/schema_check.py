"""What the check of an answer against a schema costs: µs of processor time per row at 1 kB, and the ratio to parsing.

    python benchmarks/schema_check.py
    python benchmarks/schema_check.py --rounds 20 --json raw.json

Two answers of that size: a review with some sentences, and an order with a hundred small members, which takes longest.
The whole of what ``--schema`` adds to a row that fits: its outcome goes in, one with ``parsed`` comes out. Each round
times all cases one after another, so that a slow moment of the machine hits all; the median of the rounds is shown, and
the spread. Needs the extras ``schema`` and pydantic. Does not measure what asking for the schema costs the model.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pydantic

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.core.raw_json import parse
from llmbatch.providers.function_provider import FunctionProvider
from llmbatch.providers.structured.checked import CheckedProvider
from llmbatch.providers.structured.load import load_schema

CALLS = 2000


class Finding(pydantic.BaseModel):
    quote: str
    severity: int


class Review(pydantic.BaseModel):
    label: str
    score: float
    summary: str
    findings: list[Finding]


class Item(pydantic.BaseModel):
    name: str
    price: float
    tags: list[str]


class Order(pydantic.BaseModel):
    id: int
    label: str
    items: list[Item]


def review(size: int) -> str:
    """A review of about *size* bytes: sentences."""
    sentence = "The delivery took nine days, and the box was open when it came. "
    finding = {"quote": sentence.strip(), "severity": 3}
    told = {"label": "negative", "score": 0.25, "summary": sentence * (size // 130), "findings": [finding] * 4}
    return json.dumps(told)


def order(size: int) -> str:
    """An order of about *size* bytes: small members."""
    item = {"name": "a thing of some kind", "price": 12.5, "tags": ["red", "large", "on offer"]}
    return json.dumps({"id": 17, "label": "positive", "items": [item] * max(1, size // 86)})


def cases(text: str, model: type[pydantic.BaseModel]) -> dict[str, Callable[[], object]]:
    """What is measured, by name."""
    request = Request(Route("r", "a"), "http://x", {}, b"{}", "chat", 1)
    outcome = Outcome("success", text=text, body="{}")
    schema = model.model_json_schema()
    by_schema = CheckedProvider(FunctionProvider(print), load_schema(schema), lenient=False, repair=1)
    lenient = CheckedProvider(FunctionProvider(print), load_schema(schema), lenient=True, repair=1)
    by_model = CheckedProvider(FunctionProvider(print), load_schema(model), lenient=False, repair=1)
    fenced = Outcome("success", text=f"Here it is:\n```json\n{text}\n```", body="{}")
    return {
        "parse as JSON": lambda: parse(text),
        "JSON Schema": lambda: by_schema.admit(outcome, request),
        "pydantic model": lambda: by_model.admit(outcome, request),
        "JSON Schema, lenient, in a fence": lambda: lenient.admit(fenced, request),
    }


def measure(text: str, model: type[pydantic.BaseModel], rounds: int) -> dict[str, list[float]]:
    """Microseconds of one call of each case, a figure per round."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, call in cases(text, model).items():
            begun = time.process_time()
            for _ in range(CALLS):
                call()
            found.setdefault(name, []).append((time.process_time() - begun) / CALLS * 1e6)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=1000, help="of the answer, in bytes")
    parser.add_argument("--json", type=Path, help="write the raw numbers to this file")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {platform.machine()}")
    raw: dict[str, dict[str, list[float]]] = {}
    for text, model in ((review(given.size), Review), (order(given.size), Order)):
        name = model.__name__.lower()
        raw[name] = found = measure(text, model, given.rounds)
        print(f"\n{name}, {len(text):,} bytes")
        base = statistics.median(found["parse as JSON"])
        for case, figures in found.items():
            median = statistics.median(figures)
            print(f"{case:<34}{median:8.2f} µs  {median / base:5.2f} x  ({min(figures):.2f} to {max(figures):.2f})")
    if given.json is not None:
        given.json.write_text(json.dumps(raw))


if __name__ == "__main__":
    main()
