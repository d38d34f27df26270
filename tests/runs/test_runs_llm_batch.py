"""``LLMBatch`` as Ray calls it, without Ray: a block goes in, and a block with as many rows comes out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow
import pytest
from workers_server import Provider

from llmbatch import LLMBatch, UsageError


@pytest.fixture
def provider() -> Iterator[Provider]:
    """Answers at once, nearly."""
    server = Provider(seconds=0.0)
    yield server
    server.close()


@pytest.fixture
def llm(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> LLMBatch:
    """An instance of one actor, that does not wait in an outage."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    return LLMBatch("openai/m", base_url=provider.url, on_outage="defer", concurrency=8)


def block(first: int, last: int) -> pyarrow.Table:
    return pyarrow.table({"prompt": [f"row {n}" for n in range(first, last + 1)]})


async def through(llm: LLMBatch, batch: object) -> Any:
    blocks = [block async for block in llm(batch)]
    assert len(blocks) == 1
    return blocks[0]


async def test_a_table_gets_columns_of_results(llm: LLMBatch) -> None:
    """In the order of its rows, with types that do not depend on the values."""
    table = pyarrow.table({"prompt": ["row 1", "row 2 bad", "row 3"], "label": [1, 2, 3]})

    found = await through(llm, table)

    assert found.column_names[:3] == ["prompt", "label", "status"]
    assert found["label"].to_pylist() == [1, 2, 3]
    assert found["status"].to_pylist() == ["success", "failed", "success"]
    assert found["text"].to_pylist() == ["yes", None, "yes"]
    assert found["error_code"].to_pylist() == [None, "context_length_exceeded", None]
    assert found["input_tokens"].to_pylist() == [10, None, 10]
    assert found.schema.field("finish_reason").type == pyarrow.string()
    assert found.schema.field("retry_after").type == pyarrow.float64()
    assert found.schema.field("input_tokens").type == pyarrow.int64()
    assert "parsed" not in found.column_names


async def test_names_that_the_data_has_are_kept(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the results get a prefix then; columns that are no part of a request are not sent."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    llm = LLMBatch("openai/m", base_url=provider.url, template="row {{ question }}")
    table = pyarrow.table({"question": [7], "status": ["mine"]})

    found = await through(llm, table)

    assert found["status"].to_pylist() == ["mine"]
    assert found["result_status"].to_pylist() == ["success"]
    assert provider.asked == Counter([7])


async def test_columns_of_numpy_are_rows(llm: LLMBatch, provider: Provider) -> None:
    """Values become Python's, and no value is an empty text or NaN."""
    numpy = pytest.importorskip("numpy")
    messages = numpy.empty(2, dtype=object)
    messages[:] = [numpy.array([{"role": "user", "content": f"row {n}"}], dtype=object) for n in (4, 5)]

    found = await through(llm, {"messages": messages, "n": numpy.arange(2)})

    assert list(found["n"]) == [0, 1]
    assert list(found["status"]) == ["success", "success"]
    assert list(found["error_code"]) == ["", ""]
    assert numpy.isnan(found["retry_after"]).all()
    assert provider.asked == Counter([4, 5])


@pytest.mark.traced
@pytest.mark.slow  # an outage in real time
async def test_batches_of_one_actor_share_circuits(llm: LLMBatch, provider: Provider) -> None:
    """The first one learns of the outage; those after it send a probe at most, and every row comes back."""
    first = await through(llm, block(1, 50))
    provider.status = 503
    during = await asyncio.gather(*(through(llm, block(50 * n + 1, 50 * n + 50)) for n in range(1, 5)))
    learned = provider.asked.total() - 50
    later = [await through(llm, block(50 * n + 1, 50 * n + 50)) for n in range(5, 15)]

    assert first["status"].to_pylist() == ["success"] * 50
    for found in (*during, *later):
        assert found["status"].to_pylist() == ["deferred"] * 50
        assert None not in found["reason"].to_pylist()
    assert learned <= 4 * 8 + 8
    assert provider.asked.total() - 50 - learned <= 5


@pytest.mark.traced
@pytest.mark.slow  # an outage in real time
async def test_a_provider_that_is_back_is_found_by_a_later_batch(llm: LLMBatch, provider: Provider) -> None:
    """Its probe closes the circuit for all."""
    await through(llm, block(1, 50))
    provider.status = 503
    await through(llm, block(51, 100))
    provider.status = 200
    statuses: list[str] = []
    for n in range(2, 400):
        statuses += (await through(llm, block(50 * n + 1, 50 * n + 50)))["status"].to_pylist()
        if "success" in statuses:
            break
        await asyncio.sleep(0.05)

    again = await through(llm, block(1, 50))

    assert again["status"].to_pylist() == ["success"] * 50


@pytest.mark.slow  # waits in real time
async def test_a_refused_key_defers_all_that_is_left(llm: LLMBatch, provider: Provider) -> None:
    """It is said in each row, and the actor asks no more."""
    provider.status = 401
    first = await through(llm, block(1, 50))
    asked = provider.asked.total()

    second = await through(llm, block(51, 100))

    for found in (first, second):
        assert found["status"].to_pylist() == ["deferred"] * 50
        assert Counter("refused the first rows" in reason for reason in found["reason"].to_pylist())[True] >= 42, found[
            "reason"
        ]
    assert asked <= 8
    assert provider.asked.total() == asked


@pytest.mark.slow  # waits in real time
async def test_a_block_of_bad_rows_is_no_broken_route(llm: LLMBatch, provider: Provider) -> None:
    """The route has answered in another block, so all of these have failed by themselves."""
    await through(llm, block(1, 50))
    bad = pyarrow.table({"prompt": [f"row {n} bad" for n in range(51, 101)]})

    found = await through(llm, bad)

    assert found["status"].to_pylist() == ["failed"] * 50


async def test_rows_without_a_prompt_have_failed(llm: LLMBatch) -> None:
    """Also if none in the block has one."""
    some = await through(llm, pyarrow.table({"prompt": ["row 1", None, ""]}))
    none = await through(llm, pyarrow.table({"prompt": pyarrow.array([None] * 30, pyarrow.string())}))

    assert some["error_code"].to_pylist() == [None, "input_no_prompt", "input_no_prompt"]
    assert none["error_code"].to_pylist() == ["input_no_prompt"] * 30


async def test_an_empty_block_stays_empty(llm: LLMBatch) -> None:
    """With the columns of the others."""
    found = await through(llm, pyarrow.table({"prompt": pyarrow.array([], pyarrow.string())}))

    assert found.num_rows == 0
    assert "status" in found.column_names


async def test_what_is_no_batch_or_no_model_is_refused(llm: LLMBatch) -> None:
    """With what to do."""
    with pytest.raises(UsageError, match="a batch is int"):
        await through(llm, 3)
    with pytest.raises(UsageError, match="LLMBatch needs the name of a model"):
        LLMBatch(print)  # type: ignore[arg-type]


async def test_a_missing_key_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As nothing was sent, nothing is lost by the exception."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    with pytest.raises(UsageError, match="no API key: OPENAI_API_KEY is not set"):
        await through(LLMBatch("openai/m"), block(1, 3))
