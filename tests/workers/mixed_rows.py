"""A file as people have them: good rows, rows that a provider refuses, lines that are no rows, and a wrong model."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from workers_server import UNKNOWN_MODEL, Provider

ROWS = 400
LONG, MALFORMED, UNKNOWN = range(9, ROWS, 40), range(13, ROWS, 40), range(17, ROWS, 40)
SENT = Counter(number for number in range(1, ROWS + 1) if number not in MALFORMED and number not in UNKNOWN)
"""Rows that a provider is asked while one of the models is unknown to it."""


def write_mixed(path: Path) -> None:
    """Write them: the first are good, and of each other kind there are ten."""

    def line(number: int) -> str:
        if number in MALFORMED:
            return '{"prompt":'
        row = {"prompt": f"row {number}{' bad' if number in LONG else ''}"}
        return json.dumps(row | ({"model": UNKNOWN_MODEL} if number in UNKNOWN else {}))

    path.write_text("".join(f"{line(number)}\n" for number in range(1, ROWS + 1)))


def lines_of(output: Path) -> dict[int, Any]:
    """The lines by their rows, each of which has one."""
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert set(Counter(line["row"] for line in lines).values()) == {1}
    return {line["row"]: line for line in lines}


def codes_of(output: Path) -> dict[int, str]:
    """The codes of the rows that failed."""
    return {row: line["error"]["code"] for row, line in lines_of(output).items() if line["status"] == "failed"}


EXPECTED = dict.fromkeys(LONG, "context_length_exceeded") | dict.fromkeys(MALFORMED, "input_bad_json")


def hold_down(provider: Provider, seconds: float = 5.0, *, settled: float = 2.0) -> tuple[int, int]:
    """Let *provider* be down for *seconds*; how many calls came once it was for *settled*, and most at once of them."""
    provider.status = 503
    time.sleep(settled)
    before, provider.most_at_once = provider.asked.total(), 0
    time.sleep(seconds - settled)
    probes, most = provider.asked.total() - before, provider.most_at_once
    provider.status = 200
    return probes, most


def check_first_run(folder: Path, provider: Provider, code: int, err: str) -> None:
    """One model is unknown, so that its rows wait for an answer of the user; every other row has its line."""
    assert code == 3, err
    assert f"{UNKNOWN_MODEL}` does not exist" in err
    assert lines_of(folder / "out.jsonl").keys() == set(range(1, ROWS + 1)) - set(UNKNOWN)
    assert codes_of(folder / "out.jsonl") == EXPECTED
    check_sent(provider, SENT)


def check_sent(provider: Provider, rows: Counter[int]) -> None:
    """Each of *rows* was answered once; one of those that are finished may have been a health check in the outage."""
    assert provider.answered.keys() == rows.keys()
    assert (provider.answered - rows).total() <= 1


def check_second_run(folder: Path, provider: Provider, code: int, err: str) -> None:
    """The model is there now: its rows were sent, and no other."""
    assert code == 1, err
    assert lines_of(folder / "out.jsonl").keys() == set(range(1, ROWS + 1))
    assert codes_of(folder / "out.jsonl") == EXPECTED
    check_sent(provider, SENT + Counter(UNKNOWN))
