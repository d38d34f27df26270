"""Connects this process with a Ray cluster, and says in words what to do where that cannot be.

Nothing of this process's environment is handed to the cluster: no ``runtime_env`` is set.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any, Final

import anyio

from llmbatch.core.errors import UsageError
from llmbatch.peers.ray import load_ray

__all__ = ["LOCAL", "connected"]

LOCAL: Final = "local"
"""The address of a cluster of this machine that lasts as long as the run."""

_CONNECT_S: Final = 60.0
"""Seconds for joining a cluster, or starting one; Ray itself tries for minutes."""

_PROBE_S: Final = 5.0
_LEAST_STORE_BYTES: Final = 100_000_000
"""Size of the object store of a local cluster: nothing large goes through it."""

_match_address = re.compile(r"(?:ray://)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:\s@]+):(?P<port>[0-9]{1,5})").fullmatch
_find_versions = re.compile(r"Ray: (\S+)\s+Python: (\S+)").findall


@contextlib.asynccontextmanager
async def connected(address: str | None, flag: str = "address") -> AsyncIterator[Any]:
    """The package ``ray``, connected with the cluster at *address* until the block ends.

    *address*: ``HOST:PORT``, ``ray://HOST:PORT``, ``auto`` (or None) for the cluster of this machine or that of
    ``RAY_ADDRESS``, ``local`` for one that is started here and ended with the block. A connection that this process
    has already is used, and left as it is. *flag*: what the address is called, for messages.

    Raises:
        UsageError: Ray is not installed, nothing or no Ray is there, or one of another version.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    await asyncio.to_thread(_check_address, address, flag)
    connection = _Connection(ray, address)
    try:
        await connection.open(flag)
        yield ray
    finally:
        with anyio.CancelScope(shield=True):  # a local cluster must not outlive the run
            await connection.aclose()


def _check_address(address: str | None, flag: str) -> None:
    """Refuse what is no address, or where nothing listens: Ray would try for minutes.

    Raises:
        UsageError: it is.
    """
    if address in (None, "auto", LOCAL):
        return
    found = _match_address(address or "")
    if found is None or int(found["port"]) > 65_535:
        raise UsageError(
            f"{flag} {address!r} is not the address of a Ray cluster",
            hint="write HOST:PORT of its head node, auto for the cluster of this machine, or local to start one here",
        )
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=_PROBE_S):
            pass
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(
            f"{flag} {address}: no Ray cluster can be reached there ({why})",
            hint="ray status shows the address of a cluster on its head node (ray start --head); local starts one here",
        ) from None


class _Connection:
    """A connection with a cluster. One thread begins and ends it, for a local cluster dies with the thread it is of."""

    def __init__(self, ray: Any, address: str | None) -> None:
        self._ray = ray
        self._address = address
        self._joined: Future[None] = Future()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="llmbatch-ray", daemon=True)

    def _keep(self) -> None:
        try:
            _silence()
            self._ray.init(**_arguments(self._address))
        except BaseException as error:  # noqa: BLE001 - told to whoever waits
            self._joined.set_exception(error)
        else:
            self._joined.set_result(None)
            self._over.wait()
        self._ray.shutdown()

    async def open(self, flag: str) -> None:
        """Connect; a thread that does not give up by itself is left behind.

        Raises:
            UsageError: it could not be.
        """
        where = f"{flag} {self._address or 'auto'}"
        self._thread.start()
        joined = asyncio.wrap_future(self._joined)
        await asyncio.wait([joined], timeout=_CONNECT_S)
        if not joined.done():
            raise UsageError(
                f"{where}: no Ray cluster answers there",
                hint="name the address that ray status shows on the head node, and check that this machine reaches it",
            )
        error = joined.exception()
        if error is not None:
            raise _refused(error, where) from error

    async def aclose(self) -> None:
        """Leave the cluster, or end it if it is local."""
        self._over.set()
        if self._joined.done():
            await asyncio.to_thread(self._thread.join)


def _silence() -> None:
    """Keep Ray from printing on standard output that an actor was killed: the run tells it, and the output may be data.

    There is no option for it: Ray's ``listen_error_messages`` prints whatever ``log_to_driver`` says.
    """
    worker: Any = sys.modules.get("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


def _arguments(address: str | None) -> dict[str, Any]:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address != LOCAL:
        return {"address": address or "auto", **quiet}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a run sends nothing to others than the provider
    return {"address": LOCAL, "include_dashboard": False, "object_store_memory": _LEAST_STORE_BYTES, **quiet}


def _refused(error: BaseException, where: str) -> UsageError:
    """What to do about what Ray raised."""
    text = str(error)
    versions = _find_versions(text)
    if "Version mismatch" in text and len(versions) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return UsageError(
            f"{where}: the cluster has Ray {theirs} on Python {their_python}, and here is Ray {ours} on {our_python}",
            hint=f"use the same on both: pip install 'ray=={theirs}', and Python {their_python}",
        )
    if isinstance(error, ConnectionError):
        return UsageError(
            f"{where}: no Ray cluster can be reached",
            hint="name the address of one (HOST:PORT), or local to start one here",
        )
    if "token" in text.lower():
        hint = "the cluster wants a token: put that of its head node into ~/.ray/auth_token, or RAY_AUTH_TOKEN"
        return UsageError(f"{where}: the cluster refuses this process", hint=hint)
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return UsageError(f"{where}: Ray cannot be used: {first:.300}", hint="ray status shows whether the cluster is well")
