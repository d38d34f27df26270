"""Every sickness that an answer can have, over real sockets: no crash, no false success, no row lost."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from pathlib import Path
from typing import Any, TypeGuard

import pytest
from e2e_sick import GOOD_BODY, Script, SickServer, endless, hang, hard_reset, whole

from llmbatch import BatchRunner

ROWS = 20
SICK_ROW = 5


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    hard_reset(writer)


async def _reset_in_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(whole()[:-40])
    await writer.drain()
    await asyncio.sleep(0.02)
    hard_reset(writer)


def _chunked(*chunks: bytes) -> bytes:
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed


def _length(length: bytes, body: bytes = GOOD_BODY) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + body


def _coded(coding: bytes, body: bytes) -> bytes:
    return whole(body, headers=b"Content-Encoding: " + coding + b"\r\n")


def _json(value: object) -> bytes:
    return whole(json.dumps(value).encode())


def _inner(code: object, **more: object) -> bytes:
    return _json({"error": {"message": "no", "code": code, **more}})


_ZIPPED = gzip.compress(GOOD_BODY)

# By what stands in the line of the row: the error's code.
SICK: dict[str, dict[str, Script | bytes]] = {
    "connection_reset": {
        "closed without an answer": b"",
        "reset after the request": _reset,
        "half a status line": b"HTTP/1.1 20",
        "half the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    },
    "truncated_body": {
        "reset in the body": _reset_in_body,
        "cut body": whole()[:-1],
        "no body of a length": whole()[: -len(GOOD_BODY)],
        "cut between chunks": _chunked(GOOD_BODY),
        "cut in a chunk": _chunked(GOOD_BODY)[:-9],
        "cut in a chunk's size": _chunked(GOOD_BODY[:9]) + b"1",
        "length of 2^64 - 1": _length(b"18446744073709551615"),
        "cut gzip": _coded(b"gzip", _ZIPPED[:-9]),
        "gzip that is none": _coded(b"gzip", GOOD_BODY),
        "gzip with a wrong checksum": _coded(b"gzip", _ZIPPED[:-8] + b"\0\0\0\0" + _ZIPPED[-4:]),
        "cut deflate": _coded(b"deflate", zlib.compress(GOOD_BODY)[:-5]),
        "deflate garbage": _coded(b"deflate", b"\x99" * 50),
    },
    "not_http": {
        "HTTP/0.9": GOOD_BODY,
        "binary garbage": b"\x16\x03\x01\x00\xff" * 20,
        "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
        "no status": b"HTTP/1.1 \r\n\r\n",
        "a status of words": b"HTTP/1.1 OK OK\r\n\r\n",
        "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
        "a length too short": _length(b"%d" % (len(GOOD_BODY) - 9)),
        "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n" + GOOD_BODY,
        "a negative length": _length(b"-1"),
        "a length of words": _length(b"many"),
        "a chunk's size of words": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\n" + GOOD_BODY,
        "a megabyte of one header": whole(headers=b"X-Big: " + b"a" * 2**20 + b"\r\n"),
        "10,000 headers": whole(headers=b"".join(b"X-%d: a\r\n" % number for number in range(10_000))),
        "headers without end": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: a\r\n" * 1000),
        "a header without a name": whole(headers=b": a\r\n"),
        "a header with a NUL": whole(headers=b"X-A: a\0b\r\n"),
        "brotli": _coded(b"br", GOOD_BODY),
        "zstd": _coded(b"zstd", b"\x28\xb5\x2f\xfd" + GOOD_BODY),
        "two codings": _coded(b"gzip, gzip", gzip.compress(_ZIPPED)),
    },
    "empty_body": {
        "no body": whole(b""),
        "204": b"HTTP/1.1 204 No Content\r\n\r\n",
        "blanks": whole(b" \r\n\t "),
    },
    "web_page": {
        "HTML": whole(b"<html><head><title>Be right back</title></head></html>"),
    },
    "invalid_body": {
        "invalid UTF-8": whole(GOOD_BODY.replace(b"pong", b"po\xff\xfe")),
        "UTF-16": whole(GOOD_BODY.decode().encode("utf-16")),
        "NaN": whole(GOOD_BODY.replace(b'"total_tokens":2', b'"total_tokens":NaN')),
        "two answers in one": whole(GOOD_BODY + GOOD_BODY),
        "an answer and garbage": whole(GOOD_BODY + b"}"),
        "half an answer": whole(GOOD_BODY[:-9]),
        "nested 100,000 deep": whole(b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "nested 100,000 deep and cut": whole(b"[" * 100_000),
        "a number": whole(b"42"),
        "a string": whole(b'"ok"'),
        "null": whole(b"null"),
        "a list": whole(b"[" + GOOD_BODY + b"]"),
    },
    "no_choices": {
        "choices null": _json({"id": "a", "choices": None}),
        "choices empty": _json({"id": "a", "choices": []}),
        "choices of null": _json({"choices": [None]}),
        "choices a string": _json({"choices": "pong"}),
        "an empty object": _json({}),
    },
    "no_message": {
        "no message": _json({"choices": [{"index": 0}]}),
        "a stop without a message": _json({"choices": [{"index": 0, "finish_reason": "stop"}]}),
    },
    "error_in_200": {
        "an error of true": _json({"error": True}),
        "an error of a list": _json({"error": ["no"]}),
        "an error beside an answer": whole(GOOD_BODY[:-1] + b',"error":{"message":"no"}}'),
        "an error within the choice": _json({"choices": [{"error": {"message": "no"}, "message": {"content": "p"}}]}),
    },
    "finish_reason_error": {"broken off": whole(GOOD_BODY.replace(b'"stop"', b'"error"'))},
    "server_error": {"an inner server error": _inner("server_error")},
    "internal_error": {"an inner status": _inner("internal_error", status=500)},
    "truncated_stream": {
        "a stream cut": whole(b'data: {"choices":[{"delta":{"content":"po"}}]}\n\n', headers=b"X-A: b\r\n")
    },
}


def _has_late_break(script: Script | bytes) -> TypeGuard[bytes]:
    return isinstance(script, bytes) and b"\r\n\r\n" in script[:-4]


SLOW: dict[str, dict[str, Script | bytes]] = {
    "timeout": {
        "a hang after the request": hang(),
        "a hang in the headers": hang(b"HTTP/1.1 200 OK\r\nContent-"),
        "a hang in the body": hang(whole()[:-1]),
        "a hang between chunks": hang(_chunked(GOOD_BODY)),
        "a dribble of headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-A: a\r\n", pause=0.1),
        "a dribble of the body": endless(_length(b"999999"), b" ", pause=0.1),
        "a dribble of chunks": endless(_chunked(GOOD_BODY), b"1\r\n \r\n", pause=0.1),
        "100 without end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.001),
        "103 without end": endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", pause=0.001),
    },
}


def _late(answer: bytes) -> Script:
    """*answer* with a pause behind its head."""
    end = answer.index(b"\r\n\r\n") + 4

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer[:end])
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(answer[end:])
        await writer.drain()

    return script


LATE: dict[str, dict[str, Script]] = {
    code: {f"{name}, late": _late(script) for name, script in scripts.items() if _has_late_break(script)}
    for code, scripts in SICK.items()
} | {
    # A proxy's error page, written into an answer that had begun.
    "not_http": {
        name: _late(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + rest)
        for name, rest in {
            "an error page, late": b"<html>bad gateway</html>",
            "another answer, late": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n{}",
            "a chunk's size of words, late": b"many\r\n",
            "a size too small, late": b"5\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n",
            "garbage behind a chunk, late": b"%x\r\n%s\r\n\0\0\0\0\r\n" % (len(GOOD_BODY), GOOD_BODY),
        }.items()
    }
}


def _cases(table: dict[str, dict[str, Script | bytes]]) -> dict[str, tuple[str, Script | bytes]]:
    return {name: (code, script) for code, scripts in table.items() for name, script in scripts.items()}


async def _run(
    directory: Path, server: SickServer, *, sick_row: int = 0, timeout: float = 20.0
) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the lines of a run of 20 rows."""
    directory.mkdir()
    prompts, results = directory / "prompts.jsonl", directory / "results.jsonl"
    rows = [{"prompt": "sick" if number == sick_row else f"row {number}"} for number in range(1, ROWS + 1)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with server:
        runner = BatchRunner(
            "test-model",
            base_url=server.url,
            environ={},
            concurrency=4,
            timeout=timeout,
            max_attempts=2,
            recovery_timeout=0.3,
            seed=1,
        )
        summary = await asyncio.wait_for(runner.run(prompts, results), 240)
    lines = [json.loads(line) for line in results.read_bytes().splitlines()] if results.exists() else []
    return summary.exit_code, sorted(lines, key=lambda line: line["row"])


def _told(code: int, lines: list[dict[str, Any]]) -> tuple[int, int, dict[int, str]]:
    """The exit code, how many rows got the good answer, and the codes of those that failed."""
    good = sum(line["status"] == "success" and line["text"] == "pong" for line in lines)
    return code, good, {line["row"]: line["error"]["code"] for line in lines if line["status"] == "failed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "timeout"), [(SICK, 20.0), (LATE, 20.0), (SLOW, 1.0)], ids=["at once", "late", "slow"]
)
async def test_one_row_that_meets_a_sickness_fails_by_it_and_the_others_succeed(
    tmp_path: Path, table: dict[str, dict[str, Script | bytes]], timeout: float
) -> None:
    """A row that always gets a sick answer ends failed, with its code, after its attempts; all others succeed.

    Slow: real waits before the second attempt; all sicknesses at once.
    """
    cases = _cases(table)

    ended = await asyncio.gather(
        *(
            _run(tmp_path / str(number), SickServer(script), sick_row=SICK_ROW, timeout=timeout)
            for number, (_, script) in enumerate(cases.values())
        )
    )

    told = {name: _told(*end) for name, end in zip(cases, ended, strict=True)}
    assert told == {name: (1, ROWS - 1, {SICK_ROW: code}) for name, (code, _) in cases.items()}
    assert all(lines[SICK_ROW - 1]["attempts"] >= 2 for _, lines in ended)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "timeout"), [(SICK, 20.0), (LATE, 20.0), (SLOW, 1.0)], ids=["at once", "late", "slow"]
)
async def test_a_sickness_that_passes_costs_no_row(
    tmp_path: Path, table: dict[str, dict[str, Script | bytes]], timeout: float
) -> None:
    """Where the first calls all get a bad response and then none does, every row succeeds.

    An empty list of choices is a refusal, the row's own: first rows that all meet it stop the run, and none is failed,
    unless a good answer that comes in time shows that the provider answers others.

    Slow: real waits between probes; all sicknesses at once.
    """
    cases = _cases(table)
    servers = [SickServer(script, sick_calls=9) for _, script in cases.values()]

    ended = await asyncio.gather(
        *(_run(tmp_path / str(number), server, timeout=timeout) for number, server in enumerate(servers))
    )

    told = {name: _told(*end) for name, end in zip(cases, ended, strict=True)}
    refusing = {name for name in cases if name.startswith("choices empty")}
    stopped = {name for name in refusing if told[name] == (3, 0, {})}
    assert told == {name: (3, 0, {}) if name in stopped else (0, ROWS, {}) for name in cases}
    assert {server.sick for name, server in zip(cases, servers, strict=True) if name not in refusing} == {9}
