"""Every carrier brings messages to the board and news back, and its link tells once that it is gone or back."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from store_server import SlowWay, StoreServer

from llmbatch.core.errors import UsageError
from llmbatch.peers.address import read_address
from llmbatch.peers.carrier import Carrier, CarrierError, CarrierRefusedError, Link
from llmbatch.peers.group import Answer, CameBack, Delivery, Heard, WentDown
from llmbatch.peers.local import Hub, LocalCarrier
from llmbatch.peers.member import Message
from llmbatch.peers.messages import circuit_id
from llmbatch.peers.unix import BoardServer, UnixCarrier

NAME = circuit_id("openai/a")
OPEN = Message("open", (NAME, "ann", 1_000_000, "5 rows in a row failed", 0, False))


class Party:
    """A link with everything that it delivered."""

    def __init__(self, make: Callable[[], Carrier], owner: str) -> None:
        self.all: queue.Queue[Delivery] = queue.Queue()
        self.link = Link(make, owner, self.all.put, seed=owner)
        self.link.start()

    def wait_for(self, kind: type[Any], check: Callable[[Any], bool] = lambda _: True) -> Any:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                delivery = self.all.get(timeout=0.2)
                if isinstance(delivery, kind) and check(delivery):
                    return delivery
        raise AssertionError(f"no {kind.__name__} came")

    def left(self) -> list[Delivery]:
        """What was delivered and not waited for."""
        found = []
        while not self.all.empty():
            found.append(self.all.get())
        return found

    def __enter__(self) -> Party:
        return self

    def __exit__(self, *error: object) -> None:
        self.link.close()


@pytest.fixture(params=["local", "unix", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Carrier]]:
    """A way to make carriers to one board."""
    if request.param == "local":
        hub = Hub()
        yield lambda: LocalCarrier(hub)
    elif request.param == "redis":
        with StoreServer(tmp_path) as server:
            yield read_address(server.url, {}).carrier
    else:
        with served() as url:
            yield read_address(url, {}).carrier


@contextlib.contextmanager
def served() -> Iterator[str]:
    """A board on a Unix socket, in a thread of its own."""
    urls: queue.Queue[str] = queue.Queue()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with BoardServer() as server:
            urls.put(server.url)
            await ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    yield urls.get(timeout=10)
    loop.call_soon_threadsafe(ended.set)
    thread.join()
    loop.close()


def is_open(heard: Heard) -> bool:
    return any(news.id == NAME and news.is_open for news in heard.news)


def test_an_opening_is_acknowledged_and_told_to_the_others(make: Callable[[], Carrier]) -> None:
    with Party(make, "ann") as ann, Party(make, "bob") as bob:
        ann.wait_for(CameBack)
        bob.wait_for(CameBack)

        ann.link.send(OPEN)

        reply = ann.wait_for(Answer).reply
        news = bob.wait_for(Heard, is_open).news[0]
        assert reply.kind == "opened"
        assert (news.version, news.opener, news.why) == (reply.version, "ann", "5 rows in a row failed")


def test_a_newcomer_hears_of_open_circuits_when_it_connects(make: Callable[[], Carrier]) -> None:
    with Party(make, "ann") as ann:
        ann.wait_for(CameBack)
        ann.link.send(OPEN)
        ann.wait_for(Answer)
        with Party(make, "bob") as bob:
            heard = bob.wait_for(Heard, is_open)

    assert heard.members == 2


@pytest.mark.slow  # each way takes 200 ms
def test_a_store_that_is_far_away_is_not_gone(tmp_path: Path) -> None:
    """200 ms there, and 200 ms back: what takes long is no failure."""
    with StoreServer(tmp_path) as server, SlowWay(server.port, 0.2) as way:
        address = read_address(way.url, {})
        with Party(address.carrier, "ann") as ann, Party(address.carrier, "bob") as bob:
            for party in (ann, bob):
                assert isinstance(party.all.get(timeout=20), CameBack)
            ann.link.send(OPEN)
            reply = ann.wait_for(Answer).reply
            heard = bob.wait_for(Heard, is_open)

    assert heard.news[0].version == reply.version
    assert not any(isinstance(delivery, WentDown) for party in (ann, bob) for delivery in party.left())


def test_one_process_gets_the_lease(make: Callable[[], Carrier]) -> None:
    with Party(make, "ann") as ann, Party(make, "bob") as bob, Party(make, "cid") as cid:
        for party in (ann, bob, cid):
            party.wait_for(CameBack)
        ann.link.send(OPEN)
        version = ann.wait_for(Answer).reply.version

        kinds = []
        for owner, party in (("bob", bob), ("cid", cid), ("ann", ann)):
            party.link.send(Message("ask", (NAME, owner, 5_000_000, version)))
            kinds.append(party.wait_for(Answer).reply.kind)

    assert kinds == ["granted", "busy", "busy"]


def test_rates_and_claims_are_shared(make: Callable[[], Carrier]) -> None:
    with Party(make, "ann") as ann:
        ann.wait_for(CameBack)
        replies = []
        for message in (
            Message("book", ("rpm", 500_000, 0)),
            Message("book", ("rpm", 500_000, 0)),
            Message("claim", ("cap", "a", 60, 100)),
            Message("claim", ("cap", "b", 60, 100)),
            Message("claim", ("cap", "a", 10, 100)),
            Message("claim", ("cap", "b", 90, 100)),
        ):
            ann.link.send(message)
            replies.append(ann.wait_for(Answer).reply)

    assert replies[0] == 0
    assert 0 < replies[1] <= 500_000
    assert replies[2:] == [60, 40, 10, 90]


@pytest.mark.traced
@pytest.mark.slow  # time-outs of a store
def test_the_end_is_said(make: Callable[[], Carrier]) -> None:
    """Who closes leaves, so that the others need not wait 5 s to know it."""
    with Party(make, "ann") as ann:
        ann.wait_for(CameBack)
        with Party(make, "bob") as bob:
            bob.wait_for(CameBack)
            ann.wait_for(Heard, lambda heard: heard.members == 2)
        heard = ann.wait_for(Heard, lambda heard: heard.members == 1)

    assert heard.members == 1


# Faults of a store.


def test_a_store_that_is_killed_is_gone_and_comes_back_empty(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server, Party(read_address(server.url, {}).carrier, "ann") as ann:
        ann.wait_for(CameBack)
        ann.link.send(OPEN)
        version = ann.wait_for(Answer).reply.version

        server.kill()
        ann.wait_for(WentDown)
        server.start()
        ann.wait_for(CameBack)
        ann.link.send(Message("ask", (NAME, "ann", 1_000_000, version)))
        reply = ann.wait_for(Answer).reply

    assert (reply.kind, reply.version) == ("wait", version)  # it takes over what the process knows


@pytest.mark.traced
@pytest.mark.slow  # time-outs of a store
def test_a_store_that_is_paused_counts_as_gone(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server, Party(read_address(server.url, {}).carrier, "ann") as ann:
        ann.wait_for(CameBack)

        server.pause()
        why = ann.wait_for(WentDown).why
        server.unpause()
        ann.wait_for(CameBack)

    assert why == "no answer"


def test_a_store_without_our_script_gets_it_again(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server, Party(read_address(server.url, {}).carrier, "ann") as ann:
        ann.wait_for(CameBack)
        server.client().script_flush()
        server.client().flushall()

        ann.link.send(OPEN)

        assert ann.wait_for(Answer).reply.kind == "opened"


@pytest.mark.slow  # time-outs of a store
@pytest.mark.traced
def test_a_key_that_holds_something_else_is_told_once_and_not_tried_in_vain(tmp_path: Path) -> None:
    """After the key has failed, the link is down until that very key can be read: no flood of lines."""
    with StoreServer(tmp_path) as server, Party(read_address(server.url, {}).carrier, "ann") as ann:
        ann.wait_for(CameBack)
        server.client().set(f"{{llmbatch:default}}:c:{NAME}", "poison")

        ann.link.send(OPEN)
        downs = [ann.wait_for(WentDown).why, ann.wait_for(WentDown).why]
        server.client().delete(f"{{llmbatch:default}}:c:{NAME}")
        ann.wait_for(CameBack)

    assert downs == ["a key of it holds something else"] * 2


# What is refused before anything is sent.


def first_error(url: str, environ: dict[str, str] | None = None) -> CarrierError:
    with Party(read_address(url, environ or {}).carrier, "ann") as ann:
        error = ann.link.first.exception(timeout=30)
    assert isinstance(error, CarrierError)
    return error


def test_a_missing_password_is_refused_and_a_given_one_never_shown(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--requirepass", "geheim") as server:
        without = first_error(server.url)
        wrong = first_error(server.url.replace("//", "//:falsch@"))
        right = f"redis://:$STORE_PASSWORD@127.0.0.1:{server.port}"
        address = read_address(right, {"STORE_PASSWORD": "geheim"})
        with Party(address.carrier, "ann") as ann:
            shown = ann.link.first.result(timeout=30)

    assert isinstance(without, CarrierRefusedError)
    assert "wants a password" in str(without)
    assert isinstance(wrong, CarrierRefusedError)
    assert "falsch" not in f"{wrong} {wrong.hint}"
    assert "geheim" not in f"{shown} {address!r}"


def test_a_cluster_is_refused(tmp_path: Path) -> None:
    with StoreServer(tmp_path, "--cluster-enabled", "yes") as server:
        error = first_error(server.url)

    assert isinstance(error, CarrierRefusedError)
    assert "is a cluster, which is not supported" in str(error)


def test_a_database_that_the_store_does_not_have_is_refused(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server:
        error = first_error(f"redis://127.0.0.1:{server.port}/99")

    assert isinstance(error, CarrierRefusedError)
    assert str(error).endswith("has no database of this number")


@pytest.mark.slow  # time-outs of a store
@pytest.mark.traced
def test_a_plain_store_behind_rediss_is_refused(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server:
        error = first_error(server.url.replace("redis:", "rediss:"))

    assert isinstance(error, CarrierRefusedError)
    assert "does not speak TLS" in str(error)
    assert error.hint == "write redis:// instead of rediss://"


@pytest.mark.slow  # starts processes
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_store_that_speaks_tls_is_refused_without_it(tmp_path: Path) -> None:
    pair = [tmp_path / "key.pem", tmp_path / "cert.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*make, "-keyout", pair[0], "-out", pair[1]], check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair[1], pair[0])

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    with contextlib.suppress(OSError), connection:
                        context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        error = first_error(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)

    assert isinstance(error, CarrierRefusedError)
    assert "speaks TLS" in str(error)


@contextlib.contextmanager
def stranger(greeting: bytes, answer: bytes | None) -> Iterator[str]:
    """A server that is no store: it greets, and answers all that it gets, or (None) closes at once; its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(greeting)
                        if answer is not None and connection.recv(1000):
                            connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("greeting", "answer", "shown"),
    [
        (b"", b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "it answers b'HTTP/1.1 400 Bad Request'"),
        (b"", b"<!DOCTYPE HTML>\n<html>no</html>", "it answers b'<!DOCTYPE HTML>"),
        (b"J\0\0\0\n8.0.36\0\x08\0\0\0abcdefgh\0\xff\xf7", b"", "it answers b'J\\x00\\x00\\x00\\n8.0.36"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", b"", "it answers b'SSH-2.0-OpenSSH_9.9"),
    ],
    ids=["http", "html", "mysql", "ssh"],
)
def test_what_is_no_store_is_refused(greeting: bytes, answer: bytes, shown: str) -> None:
    """It will never be one: what it says is shown, and that the address is wrong."""
    with stranger(greeting, answer) as url:
        error = first_error(url)

    assert isinstance(error, CarrierRefusedError)
    assert f"{url} is no Redis or Valkey server: {shown}" in str(error)
    assert error.hint.startswith("check the host and the port")


def test_what_closes_without_an_answer_may_be_a_store_again() -> None:
    """As a load balancer does before a store that is away."""
    with stranger(b"", None) as url:
        error = first_error(url)

    assert not isinstance(error, CarrierRefusedError)
    assert str(error) == "it takes the connection and says nothing: is it a Redis or Valkey server?"


def test_a_missing_client_is_told_with_the_command_to_install_it() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from llmbatch.peers.address import read_address\n"
        "from llmbatch.core.errors import UsageError\n"
        "try: read_address('redis://localhost', {}).check_installed()\n"
        "except UsageError as error: print(error.hint)\n"
    )

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert run.stdout == "pip install 'llmbatch[redis]'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://localhost", "is no address of a shared store"),
        ("redis://", "is no address of a shared store"),
        ("redis://localhost:many", "is no address"),
        ("env:NOT_SET", "the environment variable NOT_SET holds no address"),
        ("redis://:$NOT_SET@localhost", "the environment variable NOT_SET is not set"),
        ("redis://localhost?name=a b", "may have letters"),
        ("redis://localhost?name=", "name= is empty"),
        ("redis://localhost/0?nmae=nightly", "the address has an unknown option 'nmae'"),
        ("redis://:geheim@localhost/nightly", "'redis://…@localhost/nightly' names no database by its number"),
        ("unix:", "names no socket"),
    ],
)
def test_wrong_addresses_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("$", r"\$")):
        read_address(text, {})


def test_a_wrong_address_with_a_password_is_refused_without_it() -> None:
    with pytest.raises(UsageError) as refused:
        read_address("redos://me:geheim@localhost", {})

    assert "geheim" not in f"{refused.value} {refused.value.hint}"


def test_the_name_in_an_address_separates_boards(tmp_path: Path) -> None:
    with StoreServer(tmp_path) as server:
        one, two = (read_address(f"{server.url}?name={name}", {}).carrier for name in ("one", "two"))
        with Party(one, "ann") as ann, Party(two, "bob") as bob:
            ann.wait_for(CameBack)
            ann.link.send(OPEN)
            ann.wait_for(Answer)
            heard = bob.wait_for(Heard)

    assert (heard.news, heard.members) == ((), 1)


# The socket of a parent process.


async def test_the_socket_is_its_owners_alone() -> None:
    async with BoardServer() as server:
        path = Path(server.url.removeprefix("unix:"))
        modes = stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)

    assert modes == (0o600, 0o700)
    assert not path.parent.exists()


async def test_a_client_that_speaks_nonsense_is_cut_off_and_the_others_go_on() -> None:
    async with BoardServer() as server:
        path = server.url.removeprefix("unix:")
        for nonsense in (b"hello\n", b'[1, "explode", []]\n', b'[1, "open", [1]]\n'):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(nonsense)
            assert await reader.read() == b""
            writer.close()
        carrier = UnixCarrier(path)
        await carrier.connect()

        answer = await carrier.call(OPEN)

        await carrier.aclose()
    assert answer[0] == "opened"
