"""Rows in trouble: chosen by their text, alike at each attempt, told where a file is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.sim.provider import SimulatedProvider
from llmbatch.sim.row_fault import RowFault, find_fault
from llmbatch.sim.scenario import Scenario
from llmbatch.sim.scenario_file import find_scenario, read_scenario


def status_of(provider: SimulatedProvider, text: str) -> int:
    body = b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % text.encode()
    plan = provider.answer("POST", "/v1/chat/completions", {}, body, 0.0)
    provider.finish(plan)
    return plan.status


def test_a_share_of_rows_always_fails_and_the_smallest_request_never() -> None:
    """Each attempt of a row fares alike, and about the share asked for fails."""
    provider = SimulatedProvider(Scenario("x", (), "x", rows=(RowFault(share=0.2),)))

    first = [status_of(provider, f"row {number}") for number in range(1000)]
    again = [status_of(provider, f"row {number}") for number in range(1000)]

    assert first == again
    assert 150 <= first.count(500) <= 250
    assert first.count(200) == 1000 - first.count(500)
    assert status_of(SimulatedProvider(Scenario("x", (), "x", rows=(RowFault(share=1.0),))), "ping") == 200


def test_shares_do_not_overlap_and_blocks_are_exact() -> None:
    """Two halves cover all rows; a block has the rows it names."""
    halves = (RowFault(share=0.5), RowFault("throttle", share=0.5))

    assert all(find_fault(halves, f"row {number}") for number in range(200))
    assert [n for n in range(50) if find_fault((RowFault(numbers=(7, 9)),), f"row {n}")] == [7, 8, 9]


def test_m1_to_m8_are_found_by_their_number() -> None:
    """A number is name enough, and a number that is not there is unknown."""
    assert [find_scenario(f"m{number}").name.partition("-")[0] for number in range(1, 9)] == [
        f"m{number}" for number in range(1, 9)
    ]
    assert find_scenario("s1").name == "s1-flash"
    with pytest.raises(UsageError, match="unknown"):
        find_scenario("m9")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("share = 2", "share is 2"),
        ("", "either share or numbers"),
        ("numbers = [3]", "two whole numbers"),
        ("share = 0.1\nbehavior = 'hang'", "behavior is 'hang'"),
        ("share = 0.1\nwhen = 3", "'when' is unknown"),
        ("share = 0.1\nstatuses = [200]", "must be 400 to 599"),
    ],
)
def test_a_mistake_in_rows_is_told_with_its_place(tmp_path: Path, line: str, message: str) -> None:
    """File, table and range."""
    file = tmp_path / "mine.toml"
    file.write_text(f"[[rows]]\n{line}\n")

    with pytest.raises(UsageError, match="mine.toml: rows 1.*" + message.replace("[", r"\[")):
        read_scenario(file)


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":"row 2"}]}', '"length"'),
        ("/v1/completions", b'{"model":"m","prompt":"row 2","max_tokens":500}', '"length"'),
        ("/v1/responses", b'{"model":"m","input":"row 2"}', '"max_output_tokens"'),
        (
            "/v1/messages",
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"row 2"}]}',
            '"max_tokens"',
        ),
    ],
)
def test_the_answers_of_some_rows_are_cut_at_their_token_limit(path: str, body: bytes, end: str) -> None:
    """In each wire format, and only theirs; such a row is no bad one."""
    fault = RowFault("length", numbers=(2, 2))
    provider = SimulatedProvider(Scenario("x", (), "x", rows=(fault,)))
    plans = [provider.answer("POST", path, {}, sent, 0.0) for sent in (body, body.replace(b"row 2", b"row 3"))]

    assert [plan.status for plan in plans] == [200, 200]
    assert end.encode() in plans[0].body.replace(b" ", b"")
    assert plans[0].good
    assert len(plans[0].body) < len(plans[1].body)
    assert not fault.is_fatal(1.0)
