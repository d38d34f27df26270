"""Exceptions that llmbatch raises; one class per reaction of the caller.

::

    LlmbatchError
    ├── UsageError            the command, a file or a setting is wrong: fix it, nothing was sent   (exit 2)
    │   ├── MissingKeyError   a provider's key is not in the environment; within a file only its rows fail
    │   ├── InputError        the input cannot be read, or has changed under its output
    │   └── OutputError       the output is locked, not llmbatch's, or cannot be opened
    ├── StoppedError          the provider refuses the account, the key or the first rows           (exit 3)
    ├── WriteError            the output could not be written while running                        (exit 74)
    │   └── PipeClosedError   the reader of a pipe has ended                                        (exit 141)
    ├── RowFailedError        the row of a result did not succeed; raised by ``Result.unwrap`` only
    ├── MalformedRowError     one input row is not a request; it becomes one ``failed`` line
    └── TransportError        a request without a complete HTTP response; classified, never shown raw

``CircuitOpenError`` is in :mod:`llmbatch.breaker`, a library of its own, and has another base class.

Responses of a provider are never exceptions but values (:class:`llmbatch.core.calls.Outcome`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from llmbatch.core.rows import Result

__all__ = [
    "InUseError",
    "InputError",
    "LlmbatchError",
    "MalformedRowError",
    "MissingKeyError",
    "OutputError",
    "PipeClosedError",
    "RowFailedError",
    "StoppedError",
    "TransportError",
    "TransportFault",
    "UsageError",
    "WriteError",
]


class LlmbatchError(Exception):
    """Base class: ``message`` says what went wrong and where, ``hint`` what to try.

    A traceback shows the hint below the message. ``exit_code`` is that of a run that it ends.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")

    def __reduce__(self) -> tuple[Callable[..., LlmbatchError], tuple[object, ...]]:
        """Copies, also in another process, are made without ``__init__``, whose parameters are not ``args``."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[LlmbatchError], args: tuple[object, ...], members: dict[str, object]) -> LlmbatchError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(members)
    return error


class UsageError(LlmbatchError):
    """A command, file or setting is wrong; nothing was sent."""


class MissingKeyError(UsageError):
    """The API key of a provider is not in the environment."""


class InputError(UsageError):
    """The input cannot be read, or an input row differs from the one its output line was made from.

    ``line`` is the physical line number, from 1, where one is known.
    """

    def __init__(self, message: str, *, hint: str = "", line: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.line = line


class OutputError(UsageError):
    """The output is in use, was not written by llmbatch, or cannot be opened."""


class InUseError(OutputError):
    """Another run writes the output, or rows of the same shard."""


class StoppedError(LlmbatchError):
    """The provider refuses the account, the key, or the first rows: nothing was marked failed, an operator must act.

    Only rows of a function that had used up a ``max_attempts`` below 5 before it was known are failed.

    Raised by :meth:`llmbatch.BatchRunner.stream`; :meth:`~llmbatch.BatchRunner.run` ends with exit code 3 instead.
    ``results`` has what :meth:`~llmbatch.BatchRunner.map` had collected before; empty elsewhere.
    """

    exit_code = 3
    results: Sequence[Result] = ()


class WriteError(LlmbatchError):
    """A line could not be made durable (disk full, I/O error); the file ends with a whole line."""

    exit_code = 74


class PipeClosedError(WriteError):
    """The reader of a pipe has ended (``| head``). The run ends quietly; this is not an error."""

    exit_code = 141


class MalformedRowError(LlmbatchError):
    """One input row cannot become a request. ``code`` starts with ``input_`` and is the code in the row's line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RowFailedError(LlmbatchError):
    """A row failed or is deferred. ``row_id`` is its id, ``code`` its error code (``deferred`` if it still waits)."""

    def __init__(self, row_id: str, code: str, message: str) -> None:
        super().__init__(f"row {row_id}: {code}: {message}" if message else f"row {row_id}: {code}")
        self.row_id = row_id
        self.code = code


TransportFault = Literal[
    "unknown_host",  # a name server says that the host does not exist
    "dns",  # the host's name does not resolve
    "connect",  # refused, unreachable host, or reset before the request was sent
    "connect_timeout",  # no connection in time: not sent
    "tls",  # the certificate or the handshake was rejected: an operator must act
    "timeout",  # sent, but no whole answer in time
    "reset",  # sent, then the connection was lost
    "truncated",  # the body ended early, or did not match its length or its encoding
    "garbage",  # the response is not HTTP
    "too_large",  # the answer exceeded its limit, or was the largest when all in flight exceeded theirs
    "duplicate",  # the connection delivered the previous answer again
    "no_network",  # this machine has no network (unreachable, interface down)
    "local",  # this machine has no file handles, ports or memory left
]


class TransportError(LlmbatchError):
    """A request without a complete HTTP response.

    ``fault`` says which kind; ``sent`` is whether the request may have reached the provider (and may be billed).
    """

    def __init__(self, fault: TransportFault, message: str, *, sent: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.fault: TransportFault = fault
        self.sent = sent
