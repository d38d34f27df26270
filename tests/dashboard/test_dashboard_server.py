"""The server of pages: this machine's browsers only, and whatever is asked of it, it costs a run nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.core.rows import Result, encode_line
from llmbatch.dashboard import channel as channel_module
from llmbatch.dashboard import server as server_module
from llmbatch.dashboard.channel import Channel
from llmbatch.dashboard.listen import listen
from llmbatch.dashboard.painter import Message, RunPainter, encode
from llmbatch.dashboard.server import MOST_CONNECTIONS, MOST_WATCHERS, PageServer
from llmbatch.dashboard.sources import FileSource

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(1)">'


class CountingPainter:
    """Makes messages of a given size, and counts what it is asked for."""

    def __init__(self, size: int = 10) -> None:
        self.pages = self.messages = self.wholes = 0
        self._size = size

    def page(self) -> str:
        self.pages += 1
        return "<!doctype html><title>x</title>"

    def message(self, number: int, *, is_last: bool = False) -> Message:
        self.messages += 1

        def whole() -> bytes:
            self.wholes += 1
            return encode(number, status="whole", is_last=is_last, parts={"x": "x" * self._size})

        return Message(number, encode(number, status="news", is_last=is_last), whole, is_last=is_last)


@asynccontextmanager
async def serving(channel: Channel) -> AsyncIterator[int]:
    """The server on a free port, which it gives."""
    listener = listen(0)

    async def find(key: str) -> Channel | None:
        return None if key else channel

    server = PageServer(listener, find)
    await server.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        await server.aclose(channel)


async def ask(port: int, method: str = "GET", path: str = "/", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one request."""

    def request() -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest(method, path, skip_host="host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        connection.close()
        return found

    return await asyncio.to_thread(request)


async def raw(port: int, text: bytes) -> bytes:
    """All that comes back for some bytes, up to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    with suppress(ConnectionError):
        await writer.drain()
    answer = b""
    with suppress(ConnectionError):
        answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


class Watcher:
    """Reads server-sent events, as a page does."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, port: int) -> Watcher:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        watcher = cls(reader, writer)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"text/event-stream" in head
        return watcher

    async def next(self) -> dict[str, Any]:
        while True:
            line = await asyncio.wait_for(self._reader.readline(), 20)
            if line.startswith(b"data: "):
                return dict(json.loads(line[6:]))
            assert line, "the stream has ended"

    async def is_over(self) -> bool:
        rest = await asyncio.wait_for(self._reader.read(), 20)
        return b"data:" not in rest

    def close(self) -> None:
        self._writer.close()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A good row and a failed one, whose texts are markup."""
    rows = [
        Result(1, f"{1:016x}", "success", '"r1"', text=f"answer {HOSTILE}", model="p/m", attempts=1),
        Result(2, f"{2:016x}", "failed", json.dumps(HOSTILE), error_code=HOSTILE, error_message=HOSTILE, model=HOSTILE),
    ]
    path = tmp_path / "o.jsonl"
    path.write_bytes(b"".join(map(encode_line, rows)))
    return path


@pytest.fixture
def page_of(output: Path) -> Callable[[], Channel]:
    """The channel of the page about ``output``."""
    return lambda: Channel(RunPainter(FileSource(output, version="1.0"), events="/events"))


async def test_the_page_has_a_strict_policy_and_nothing_inline(page_of: Callable[[], Channel]) -> None:
    """Script and style come from paths of their own; nothing may frame it, and no other origin may read it."""
    async with serving(page_of()) as port:
        status, headers, body = await ask(port)
        script, style = [await ask(port, path=f"/static/page.{kind}") for kind in ("js", "css")]

    assert status == 200
    policy = dict(item.strip().split(" ", 1) for item in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    for answer in (headers, script[1], style[1]):
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["referrer-policy"] == "no-referrer"
        assert answer["cache-control"] == "no-store"
        assert not [name for name in answer if name.startswith("access-control")]
    assert re.findall("<script[^>]*>", body) == ['<script src="/static/page.js" defer>']
    assert not re.search(r"<style|\bstyle=|\bon\w+=\"|<img|javascript:", body)
    assert "2 rows: 1 answered, 1 failed" in body
    assert "answer &lt;" not in body, "answers are not shown"
    assert "uPlot" in script[2]
    assert ".tiles" in style[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_only_reading_is_allowed(page_of: Callable[[], Channel], method: str) -> None:
    """On every path."""
    async with serving(page_of()) as port:
        for path in ("/", "/events", "/static/page.js", "/nothing"):
            status, headers, _ = await ask(port, method, path)

            assert (status, headers["allow"]) == (405, "GET,HEAD")
            assert "content-security-policy" in headers


async def test_a_head_request_has_no_body(page_of: Callable[[], Channel]) -> None:
    """Of the stream too, which would never end."""
    async with serving(page_of()) as port:
        for path in ("/", "/events", "/static/page.js"):
            status, _, body = await ask(port, "HEAD", path)

            assert (status, body) == (200, "")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9999", 200),
        ("127.0.0.1:80", 200),
        ("127.8.9.1", 200),
        ("[::1]:8123", 200),
        ("evil.example", 421),
        ("evil.example:8123", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("10.0.0.1", 421),
        ("0.0.0.0", 421),
        ("localhost:80:80", 421),
        ("localhost@evil.example", 421),
        ("", 421),
    ],
)
async def test_a_name_that_was_bound_to_loopback_is_refused(
    page_of: Callable[[], Channel], host: str, status: int
) -> None:
    """DNS rebinding: the browser of a foreign page asks this machine, under the page's own name."""
    async with serving(page_of()) as port:
        assert (await ask(port, host=host))[0] == status
        assert (await ask(port, path="/static/page.js", host=host))[0] == status


async def test_other_sites_are_not_answered(page_of: Callable[[], Channel]) -> None:
    """Neither by their origin, nor by what browsers say of the fetch; a link from elsewhere may lead here."""
    async with serving(page_of()) as port:
        own = f"127.0.0.1:{port}"

        assert (await ask(port, path="/", Origin="https://evil.example"))[0] == 403
        assert (await ask(port, path="/", Origin="null"))[0] == 403
        assert (await ask(port, path="/", Origin="http://localhost:1"))[0] == 403
        assert (await ask(port, path="/", Origin=f"http://{own}"))[0] == 200
        assert (await ask(port, path="/events", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="cors"))[0] == 403
        assert (await ask(port, path="/events", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="no-cors"))[0] == 403
        assert (await ask(port, path="/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate"))[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "/static/../../etc/passwd", "/static/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/run/x/"),
        *("/static/page.py", "/static/", "/run/../", "/events/x", "/%00", "/favicon.ico", "/o.jsonl"),
    ],
)
async def test_there_is_nothing_else(page_of: Callable[[], Channel], path: str) -> None:
    """No file of the machine, and no file of the run."""
    async with serving(page_of()) as port:
        status, headers, _ = await ask(port, path=path)

        assert status == 404
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "text",
    [
        b"\x00\xff\xfe garbage\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_request_disturbs_nothing(
    page_of: Callable[[], Channel], text: bytes, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused, nothing is written to the terminal of the run, and pages are served as before."""
    caplog.set_level(logging.WARNING)
    async with serving(page_of()) as port:
        answer = await raw(port, text + b"\r\n\r\n")

        assert not answer.startswith(b"HTTP/1.1 200"), answer[:200]
        assert (await ask(port))[0] == 200
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name.startswith(("aiohttp", "asyncio"))]


async def test_a_message_is_made_once_for_all_who_watch_and_never_else() -> None:
    """The first is whole, those after it are news; when the last one has left, nothing is made any more."""
    painter = CountingPainter()
    channel = Channel(painter, every_s=0.02)
    async with serving(channel) as port:
        await ask(port)
        await asyncio.sleep(0.1)
        assert (painter.pages, painter.messages) == (1, 0), "nobody watches"

        watchers = [await Watcher.of(port) for _ in range(10)]
        heard = [[await watcher.next() for _ in range(5)] for watcher in watchers]

        assert all(messages[0]["status"] == "whole" for messages in heard)
        assert {message["status"] for messages in heard for message in messages[1:]} <= {"news", "whole"}
        assert all(two["seq"] > one["seq"] for messages in heard for one, two in pairwise(messages))
        assert painter.messages <= heard[-1][-1]["seq"] + 2, "ten watchers cost as much as one"
        for watcher in watchers:
            watcher.close()
        while channel.watchers:
            await asyncio.sleep(0.01)
        made = painter.messages
        await asyncio.sleep(0.1)
        assert painter.messages <= made + 1


async def test_pages_that_are_reloaded_all_the_time_are_made_once() -> None:
    """A hundred tabs cost one page a second at most."""
    painter = CountingPainter()
    async with serving(Channel(painter, every_s=60.0)) as port:
        for _ in range(100):
            assert (await ask(port))[0] == 200

        assert painter.pages == 1


async def test_the_number_of_watchers_is_bounded() -> None:
    """Who comes too late is told to come again, and gets in when somebody has left."""
    channel = Channel(CountingPainter(), every_s=0.02)
    async with serving(channel) as port:
        watchers = [await Watcher.of(port) for _ in range(MOST_WATCHERS)]

        status, headers, _ = await ask(port, path="/events")

        assert (status, headers["retry-after"]) == (503, "10")
        assert (await ask(port))[0] == 200, "pages are served all the same"
        watchers.pop().close()
        while channel.watchers == MOST_WATCHERS:
            await asyncio.sleep(0.01)
        (await Watcher.of(port)).close()
        for watcher in watchers:
            watcher.close()


async def test_the_number_of_connections_is_bounded() -> None:
    """Each takes a file handle, which the run needs: silent ones are refused beyond a bound."""
    async with serving(Channel(CountingPainter())) as port:
        silent = []
        for _ in range(MOST_CONNECTIONS):
            silent.append(await asyncio.open_connection("127.0.0.1", port))
        while not (await raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")).startswith(b"HTTP/1.1 503"):
            await asyncio.sleep(0.01)
        for _, writer in silent:
            writer.close()
        while not (await raw(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).startswith(
            b"HTTP/1.1 200"
        ):
            await asyncio.sleep(0.01)


async def test_silent_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a few of them would keep everybody out."""
    monkeypatch.setattr(server_module, "_SILENT_S", 0.02)
    async with serving(Channel(CountingPainter(), every_s=0.02)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        watcher = await Watcher.of(port)

        with suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""

        assert [await watcher.next() for _ in range(20)], "who watches is not silent"
        watcher.close()
        writer.close()


async def test_a_client_that_does_not_read_is_dropped_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that sleeps: its connection is ended, and others hear the newest message all the time."""
    monkeypatch.setattr(channel_module, "_SLOW_S", 0.1)
    painter = CountingPainter(size=4_000_000)
    channel = Channel(painter, every_s=0.02)
    async with serving(channel) as port:
        asleep = socket.create_connection(("127.0.0.1", port))
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not channel.watchers:
            await asyncio.sleep(0.01)
        awake = await Watcher.of(port)

        numbers = [(await awake.next())["seq"] for _ in range(20)]
        while channel.watchers > 1:
            await awake.next()

        assert numbers == sorted(set(numbers))
        awake.close()
        asleep.close()


@pytest.mark.slow  # much to show
@pytest.mark.traced
async def test_a_message_that_costs_much_comes_half_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the run does little meanwhile, a page is not what its process is busy with."""
    times: list[float] = []

    class Slow(CountingPainter):
        def message(self, number: int, *, is_last: bool = False) -> Message:
            times.append(time.monotonic())
            until = time.thread_time() + 0.002
            while time.thread_time() < until:
                pass
            return super().message(number, is_last=is_last)

    async with serving(Channel(Slow(), every_s=0.1, is_quick=True)) as port:
        watcher = await Watcher.of(port)
        for _ in range(4):
            await watcher.next()
        assert all(later - earlier > 0.15 for earlier, later in pairwise(times))

        monkeypatch.setattr(channel_module, "_SHARE", 2.0)  # as if the run did much more
        times.clear()
        while not any(later - earlier < 0.15 for earlier, later in pairwise(times)):
            await watcher.next()
        watcher.close()


async def test_a_client_of_http_1_0_gets_events_without_chunks() -> None:
    """Such as an old proxy; the end of the connection is the end of the stream."""
    channel = Channel(CountingPainter(), every_s=0.02)
    async with serving(channel) as port:
        reading = asyncio.create_task(raw(port, b"GET /events HTTP/1.0\r\nHost: localhost\r\n\r\n"))
        while not channel.watchers:
            await asyncio.sleep(0.01)
        await channel.end()
        head, _, events = (await reading).partition(b"\r\n\r\n")

    assert b"chunked" not in head
    assert events.startswith(b":\n\ndata: {")
    assert events.endswith(b'"final":true}\n\n')


@pytest.mark.traced
@pytest.mark.slow  # fifteen seconds of real waits
async def test_the_last_message_ends_the_stream() -> None:
    """Open pages hear how it ended before the server is gone."""
    channel = Channel(CountingPainter(), every_s=0.02)
    async with serving(channel) as port:
        watcher = await Watcher.of(port)
        await watcher.next()
        closing = asyncio.create_task(channel.end())
        while not (await watcher.next())["final"]:
            pass

        assert await watcher.is_over()
        await closing


@pytest.mark.slow  # the page asks each second
@pytest.mark.traced
async def test_an_output_that_is_gone_is_told_and_comes_back(output: Path, page_of: Callable[[], Channel]) -> None:
    """The server lives on."""
    text = output.read_bytes()
    async with serving(page_of()) as port:
        output.unlink()
        status, _, body = await ask(port)
        assert status == 404
        assert "there is no such file" in body
        watcher = await Watcher.of(port)
        assert "there is no such file" in (await watcher.next())["status"]

        output.write_bytes(text)

        while "1 answered, 1 failed" not in (await watcher.next())["parts"].get("head", ""):
            pass
        watcher.close()


@pytest.mark.slow  # the page asks each second
@pytest.mark.traced
async def test_news_have_what_changed_and_the_whole_has_all(page_of: Callable[[], Channel]) -> None:
    """A page that watches from now on gets every section; later only those that differ. Text stays text."""
    channel = page_of()
    async with serving(channel) as port:
        watcher = await Watcher.of(port)
        whole, news = await watcher.next(), await watcher.next()
        watcher.close()

    assert {"head", "failures", "models", "latest", "settings", "outages"} <= whole["parts"].keys()
    assert news["parts"].keys() <= {"head"}, "nothing has changed but the clock"
    markup = "".join(whole["parts"].values())
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in markup
    assert "<script" not in markup
    assert "<img" not in markup


def test_a_port_in_use_is_named() -> None:
    """With what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is in use") as caught:
            listen(port)

    assert "0 for any that is free" in caught.value.hint
