"""An SQLite file of answers by key, which several processes may use at once.

Reads are immediate. Writes are gathered and committed by a thread, so that no answer waits for the disk; a process that
is killed loses those of the last moments. A fault of the disk while the file is in use ends the writing, not the run.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sqlite3
import threading
import time
from pathlib import Path

from llmbatch.core.errors import UsageError

__all__ = ["AnswerCache"]

APPLICATION_ID = 0x6C6C6D62
"""Marks the file as ours (``llmb``), in SQLite's header."""

VERSION = 1
"""Version of the table's form."""

BUSY_SECONDS = 30.0
"""How long another process may keep the file locked."""

BATCH_SECONDS = 0.5
"""How long answers are gathered before they are committed."""

CLOSE_SECONDS = 5.0
"""How long the last answers may take to be committed when the cache is closed."""

MOST_AT_ONCE = 1000
"""How many answers are committed together at most."""

_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?)"
_REPLACE = "INSERT OR REPLACE INTO answers VALUES (?, ?)"
_HINT = "name another file, or leave out --cache"


class AnswerCache:
    """The cache in the file at *path*; it is created if it is not there. For one thread.

    *replaces*: an answer takes the place of an earlier one of its key, which stays otherwise.

    Raises:
        UsageError: the file is none of ours, of a later version, damaged, or cannot be written.
    """

    def __init__(self, path: str | Path, *, replaces: bool = False) -> None:
        self._path = str(path)
        self._insert = _REPLACE if replaces else _INSERT
        self.fault = ""
        """Why answers are not kept any more; empty while they are."""
        self._unwritten: dict[bytes, bytes] = {}
        self._queue: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        try:
            self._reading = self._open()
            self._opened = Path(self._path).stat()
        except (sqlite3.Error, OSError) as error:
            raise UsageError(f"{self._path}: the cache cannot be used ({_words(error)})", hint=_HINT) from error

    def __repr__(self) -> str:
        return f"<AnswerCache {self._path}>"

    def _open(self) -> sqlite3.Connection:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))  # answers are nobody else's
        connection = _connect(self._path)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise UsageError(f"{self._path} is a database of another program", hint=_HINT)
        if version > VERSION:
            raise UsageError(f"{self._path} was written by a later version of llmbatch", hint=_HINT)
        connection.execute("PRAGMA journal_mode=WAL")
        with connection:
            connection.execute("BEGIN IMMEDIATE")  # fails now if the file cannot be written
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer BLOB NOT NULL) WITHOUT ROWID"
            )

    def get(self, key: bytes) -> bytes | None:
        """The answer of *key*; None if there is none, or if the file cannot be read now."""
        answer = self._unwritten.get(key)
        if answer is not None:
            return answer
        try:
            found = self._reading.execute("SELECT answer FROM answers WHERE key=?", (key,)).fetchone()
        except sqlite3.Error as error:
            self.fault = self.fault or _words(error)
            return None
        return None if found is None else found[0]

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep *answer*."""
        if self.fault or key in self._unwritten:
            return
        self._unwritten[key] = answer
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="llmbatch-cache", daemon=True)
            self._thread.start()
        self._queue.put((key, answer))

    def close(self) -> None:
        """Commit what was gathered, and close the file; idempotent. From any thread; blocks for 5 s at most.

        What cannot be committed by then is not kept, and ``fault`` says so.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(CLOSE_SECONDS)
            if self._thread.is_alive():
                self.fault = self.fault or "another process keeps the file locked"
            self._thread = None
        self._reading.close()

    # The thread.

    def _write(self) -> None:
        if self._is_gone():
            return
        try:
            connection = _connect(self._path)
        except sqlite3.Error as error:
            self.fault = _words(error)
            return
        with contextlib.closing(connection):
            is_open = True
            while is_open:
                batch, is_open = self._gather()
                try:
                    with connection:
                        connection.execute("BEGIN IMMEDIATE")
                        connection.executemany(self._insert, batch)
                except sqlite3.Error as error:
                    self.fault = _words(error)
                    return
                for key, _ in batch:
                    self._unwritten.pop(key, None)
                if self._is_gone():
                    return

    def _is_gone(self) -> bool:
        """Whether the file has lost its name, so that the next run would not find what is written."""
        try:
            is_gone = not os.path.samestat(self._opened, Path(self._path).stat())
        except FileNotFoundError:
            is_gone = True
        except OSError:
            is_gone = False  # as in a folder that is no longer searchable
        if is_gone:
            self.fault = self.fault or "the file was deleted or replaced during the run"
        return is_gone

    def _gather(self) -> tuple[list[tuple[bytes, bytes]], bool]:
        """The answers of the next moment, and whether more may come."""
        item = self._queue.get()
        batch: list[tuple[bytes, bytes]] = []
        end = time.monotonic() + BATCH_SECONDS
        while item is not None:
            batch.append(item)
            if len(batch) >= MOST_AT_ONCE:
                return batch, True
            try:
                item = self._queue.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return batch, True
        return batch, False


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _words(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)
