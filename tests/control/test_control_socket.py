"""The control socket: who can open it, where it can be, and what clients may do without disturbing the run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llmbatch.control import server as server_module
from llmbatch.control.client import ask
from llmbatch.control.protocol import (
    MOST_BYTES,
    Answer,
    Command,
    read_answer,
    read_command,
    write_answer,
    write_command,
)
from llmbatch.control.server import ControlServer
from llmbatch.control.unix_socket import connect, is_owner, listen, remove
from llmbatch.core.errors import UsageError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no Unix sockets here")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: pytest's own are long."""
    made = Path(tempfile.mkdtemp(prefix="c"))
    yield made
    shutil.rmtree(made)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[tuple[socket.socket, os.stat_result]]:
    listener, about = listen(path)
    with listener:
        yield listener, about


# The socket on the disk.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_the_socket_is_its_owners_whatever_the_umask(folder: Path, umask: int) -> None:
    """Its mode is 0600, and no other file is left."""
    before = os.umask(umask)
    try:
        with listening(folder / "o.control"):
            mode = (folder / "o.control").lstat().st_mode
    finally:
        os.umask(before)

    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert [one.name for one in folder.iterdir()] == ["o.control"]


def test_nobody_else_can_reach_it_while_it_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step from bind on, the socket has its mode or lies in a folder with the mode 0700."""
    seen: list[tuple[int, int]] = []

    def look() -> None:
        for made in folder.rglob("*"):
            if stat.S_ISSOCK(made.lstat().st_mode):
                seen.append((stat.S_IMODE(made.lstat().st_mode), stat.S_IMODE(made.parent.lstat().st_mode)))

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            look()

        def listen(self, *backlog: int) -> None:
            look()
            super().listen(*backlog)
            look()

    monkeypatch.setattr(socket, "socket", Watched)
    before = os.umask(0)
    try:
        with listening(folder / "o.control"):
            look()
    finally:
        os.umask(before)

    assert len(seen) == 4
    assert seen[0][1] == 0o700
    assert all(mode == 0o600 or parent == 0o700 for mode, parent in seen)


def test_a_socket_that_a_kill_left_is_replaced(folder: Path) -> None:
    """By one that answers; and the end of the older run does not remove the newer one's."""
    path = folder / "o.control"
    stale, old = listen(path)
    stale.close()
    with pytest.raises(ConnectionRefusedError):
        connect(path, 5.0)

    with listening(path) as (_, new):
        connect(path, 5.0).close()
        remove(path, old)
        assert path.exists()
        remove(path, new)
        assert not path.exists()
        remove(path, new)


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(folder: Path, kind: str) -> None:
    """A user's file may have that name."""
    path = folder / "o.control"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(folder / "elsewhere")

    with pytest.raises(FileExistsError):
        listen(path)

    assert [one.name for one in folder.iterdir()] == ["o.control"]
    assert kind != "file" or path.read_text() == "mine"


def test_paths_longer_than_an_address_work(folder: Path) -> None:
    """Of a socket's 108 bytes nothing is seen: long folders, long names, and letters of several bytes."""
    deep = folder / ("d" * 120) / ("é" * 60)
    deep.mkdir(parents=True)
    path = deep / f"{'n' * 200}.control"

    with listening(path) as (listener, _):
        listener.setblocking(True)
        accepted: list[bytes] = []

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                accepted.append(connection.recv(10))

        thread = threading.Thread(target=accept)
        thread.start()
        with connect(path, 5.0) as connection:
            connection.sendall(b"hello")
        thread.join(30)

    assert accepted == [b"hello"]
    assert [one.name for one in deep.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_raises_and_leaves_nothing(folder: Path) -> None:
    """As a file system without sockets does: the run goes on without."""
    with pytest.raises(FileNotFoundError):
        listen(folder / "missing" / "o.control")
    with pytest.raises(OSError, match="too long"):
        listen(folder / f"{'n' * 250}.control")

    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="this system does not tell who has connected")
def test_other_users_are_told_apart() -> None:
    """By what the system says of the peer; root may do everything anyway."""

    class Peer:
        def __init__(self, user: int) -> None:
            self._user = user

        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("3i", 1, self._user, 1)

    assert is_owner(Peer(os.geteuid()))  # type: ignore[arg-type]
    assert is_owner(Peer(0))  # type: ignore[arg-type]
    assert not is_owner(Peer(os.geteuid() + 12345))  # type: ignore[arg-type]


# What goes over it.


def test_commands_and_answers_are_read_as_they_were_written() -> None:
    """With whatever text in them."""
    command = Command("set", {"concurrency": "80", "odd": 'a"b\nü'})
    answer = Answer(False, "no\nway", "try ü")

    assert read_command(write_command(command)) == command
    assert read_command(write_command(Command("pause"))) == Command("pause")
    assert read_answer(write_answer(answer)) == answer
    assert read_answer(b"GET / HTTP/1.1\r\n") is None
    assert read_answer(b'{"ok":true}\n') is None


GARBAGE = [
    b"\n",
    b"pause\n",
    b"\xff\xfe\n",
    b"[]\n",
    b'"pause"\n',
    b'{"command":"explode"}\n',
    b'{"command":["pause"]}\n',
    b'{"command":"set"}\n',
    b'{"command":"set","values":{"rpm":60}}\n',
    b'{"command":"set","values":"rpm"}\n',
    b'{"command":"pause","values":{"rpm":"60"}}\n',
    b'{"command":"pause"',
    b"GET / HTTP/1.1\r\n\r\n",
    b"{" * 5000 + b"\n",
    b"x" * (MOST_BYTES + 1) + b"\n",
    write_command(Command("set", {f"n{number}": "1" for number in range(100)})),
    write_command(Command("set", {"rpm": "1" * 3000})),
]


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused(line: bytes) -> None:
    """With a message and a hint, whatever it is."""
    refusal = read_command(line)

    assert isinstance(refusal, Answer)
    assert not refusal.ok
    assert refusal.message
    assert refusal.hint


# The run's end of it.


class Run:
    """A server, and the commands that it has handed on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[Command] = []
        self.server = ControlServer(path, self.obey)
        self.server.start()

    def obey(self, command: Command) -> Answer:
        self.heard.append(command)
        if command.name == "drain":
            raise UsageError("not now", hint="later")
        return Answer(True, f"done: {command.name}")

    async def ask(self, name: str) -> Answer | None:
        return await asyncio.to_thread(ask, self.path, Command(name), timeout=60.0)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


@pytest.fixture
async def run(folder: Path) -> AsyncIterator[Run]:
    made = Run(folder / "o.control")
    yield made
    await made.server.aclose()
    assert not made.path.exists()


async def test_a_command_is_carried_out_and_answered(run: Run) -> None:
    """A refusal too, with its hint."""
    assert await run.ask("pause") == Answer(True, "done: pause")
    assert await run.ask("drain") == Answer(False, "not now", "later")
    assert [command.name for command in run.heard] == ["pause", "drain"]


async def test_garbage_gets_a_refusal_and_the_next_client_is_heard(run: Run) -> None:
    """Nothing of it reaches the run."""
    for line in GARBAGE:
        reader, writer = await run.raw()
        writer.write(line)
        with contextlib.suppress(ConnectionError):
            writer.write_eof()
            answer = read_answer(await reader.read())
            assert answer is None or not answer.ok
        writer.close()

    assert run.heard == []
    assert await run.ask("resume") == Answer(True, "done: resume")


async def test_clients_that_say_nothing_do_not_keep_others_out_for_long(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many are heard at a time, each for so long; more are hung up on at once."""
    monkeypatch.setattr(server_module, "CLIENT_SECONDS", 0.05)
    silent = [await run.raw() for _ in range(server_module.MOST_CLIENTS + 20)]

    for reader, _ in silent:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""

    assert await run.ask("pause") == Answer(True, "done: pause")
    for _, writer in silent:
        writer.close()


async def test_a_client_that_hangs_up_is_forgotten(run: Run) -> None:
    """Before it has said a word, in the middle of one, and before it has its answer."""
    for line in (b"", b'{"comm', write_command(Command("pause"))):
        for _ in range(30):
            _, writer = await run.raw()
            writer.write(line)
            writer.close()

    assert await run.ask("resume") == Answer(True, "done: resume")


async def test_the_end_hangs_up_on_clients(run: Run) -> None:
    """A client that waits does not hold up the run; afterwards nobody answers."""
    reader, writer = await run.raw()
    await asyncio.sleep(0)

    await run.server.aclose()

    assert await reader.read() == b""
    assert await run.ask("pause") is None
    writer.close()


async def test_without_file_handles_the_loop_does_not_spin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that cannot be taken now is tried again after a rest."""
    monkeypatch.setattr(server_module, "REST_SECONDS", 0.01)
    tries = 0
    real = socket.socket.accept

    def accept(listener: socket.socket) -> tuple[socket.socket, object]:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise OSError(24, "too many open files")
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)

    assert await run.ask("pause") == Answer(True, "done: pause")
    assert tries == 3


def test_nobody_listens_where_there_is_no_socket(folder: Path) -> None:
    """Neither at a name that is missing, nor at one that is a file."""
    (folder / "file").write_text("")

    assert ask(folder / "o.control", Command("pause")) is None
    assert ask(folder / "file", Command("pause")) is None
