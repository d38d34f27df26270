"""The board in Redis or Valkey: one script does every verb, and news go through publish and subscribe.

The client (extra ``redis``) is loaded only where a store is named. What the store answers, and with which words, is
told without the password of its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from llmbatch.core.errors import UsageError
from llmbatch.peers.carrier import STEP_PATIENCE, CarrierError, CarrierRefusedError
from llmbatch.peers.lua import SCRIPT
from llmbatch.peers.member import Message
from llmbatch.peers.messages import CircuitNews, parse_news

__all__ = ["RedisCarrier", "load_client"]

_CONNECT_SECONDS = 1.5
"""Less than a link waits, so that it is told what took so long."""

_PROBE_SECONDS = 1.0
"""How long a store that does not answer is asked whether it speaks TLS, or does not."""

_SIGNS = (b"+", b"-")
"""What the answer of a store to ``PING`` begins with."""

_SHOWN_BYTES = 24
"""How much of the answer of what is no store is shown."""

_REFUSED_HINT = "put it into the address, and the address into a variable: --shared env:NAME"


def load_client() -> Any:
    """Load ``redis.asyncio``.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import redis.asyncio
    except ImportError:
        raise UsageError(
            "a shared store needs the package redis, which is not installed", hint="pip install 'llmbatch[redis]'"
        ) from None
    return redis.asyncio


class RedisCarrier:
    """Carries messages to the board *name* in the store at *url*, which is *shown* without its password."""

    def __init__(self, url: str, name: str, shown: str) -> None:
        self._redis = load_client()
        self._url = url
        self._prefix = f"{{llmbatch:{name}}}"
        self._shown = shown
        self._client: Any = None
        self._run: Any = None
        self._channel: Any = None

    @property
    def address(self) -> str:
        """Where the board is, without a password."""
        return self._shown

    async def connect(self) -> None:
        """Connect anew, and check that the store can carry a board.

        Raises:
            CarrierError: it cannot be reached.
            CarrierRefusedError: it wants a password or TLS, or is a cluster.
        """
        await self.aclose()
        try:
            self._client = self._redis.from_url(
                self._url,
                decode_responses=True,
                socket_connect_timeout=_CONNECT_SECONDS,
                socket_keepalive=True,
                protocol=2,
                **_no_retries(),
            )
        except (ValueError, TypeError) as error:
            raise CarrierRefusedError(
                f"no address that the client takes: {type(error).__name__}", "see --shared"
            ) from None
        self._run = self._client.register_script(SCRIPT)
        try:
            async with self._step():
                await self._client.ping()
        except CarrierRefusedError:
            raise
        except CarrierError:
            await self._refuse_other_protocol()
            raise
        async with self._step():
            await self._refuse_cluster()
        self._channel = self._client.pubsub(ignore_subscribe_messages=True)
        async with self._step():
            await self._channel.subscribe(f"{self._prefix}:news")

    @contextlib.asynccontextmanager
    async def _step(self) -> AsyncIterator[None]:
        """One step of connecting, whose errors are turned into ours."""
        with self._errors():
            async with asyncio.timeout(STEP_PATIENCE):
                yield

    async def _refuse_other_protocol(self) -> None:
        """Tell a store that is not there from one that speaks TLS or does not, and from what is no store at all."""
        where = urlsplit(self._url)
        host, port, is_tls = where.hostname or "", where.port or 6379, where.scheme == "rediss"
        if is_tls and (await _answer_of(host, port, is_tls=False) or b"")[:1] in _SIGNS:
            raise CarrierRefusedError(f"{self._shown} does not speak TLS", "write redis:// instead of rediss://")
        answer = await _answer_of(host, port, is_tls=is_tls)
        if answer and answer[:1] not in _SIGNS:
            raise CarrierRefusedError(
                f"{self._shown} is no Redis or Valkey server: it answers {answer[:_SHOWN_BYTES]!r}",
                "check the host and the port; most stores listen at 6379",
            )
        if not answer and not is_tls and await _answer_of(host, port, is_tls=True) is not None:
            raise CarrierRefusedError(f"{self._shown} speaks TLS", "write rediss:// instead of redis://")
        if answer == b"":
            raise CarrierError("it takes the connection and says nothing: is it a Redis or Valkey server?")

    async def _refuse_cluster(self) -> None:
        try:
            info = await self._client.info("cluster")
        except self._redis.ResponseError:
            return  # hosted stores may forbid it
        if info.get("cluster_enabled"):
            raise CarrierRefusedError(
                f"{self._shown} is a cluster, which is not supported",
                "name a single server, or a replica set's primary",
            )

    async def describe(self) -> str:
        """What serves the board, such as ``Valkey 9.1.2``; empty if that may not be asked."""
        with self._errors():
            try:
                info = await self._client.info("server")
            except self._redis.ResponseError:
                return ""  # hosted stores may forbid it
        name = "Valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "Redis"
        return f"{name} {info.get('valkey_version') or info.get('redis_version') or ''}".strip()

    async def call(self, message: Message) -> Any:
        """Carry out *message*.

        Raises:
            CarrierError: the store could not be reached, or holds something else under the keys.
        """
        texts = [int(arg) if isinstance(arg, bool) else arg for arg in message.args]
        with self._errors():
            return await self._run(keys=[self._prefix], args=[message.verb, "", *texts])

    async def news(self) -> AsyncIterator[CircuitNews]:
        """Yield news until the connection ends."""
        with self._errors():
            async for item in self._channel.listen():
                if item.get("type") == "message":
                    with contextlib.suppress(ValueError):  # somebody else's message
                        yield parse_news(item["data"])

    async def aclose(self) -> None:
        """Close all connections; idempotent."""
        channel, client, self._channel, self._client = self._channel, self._client, None, None
        for closing in (channel, client):
            if closing is not None:
                with contextlib.suppress(self._redis.RedisError, OSError, asyncio.TimeoutError):
                    await closing.aclose()

    @contextlib.contextmanager
    def _errors(self) -> Any:
        """Turn the client's errors into ours, without anything of the address but what may be shown."""
        redis = self._redis
        try:
            yield
        except redis.AuthenticationError as error:
            is_missing = "required" in str(error)
            what = "wants a password" if is_missing else "refuses the password or the user"
            raise CarrierRefusedError(f"{self._shown} {what}", _REFUSED_HINT) from None
        except redis.ResponseError as error:
            raise _refused(str(error), self._shown) from None
        except (redis.RedisError, OSError, EOFError) as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: BaseException) -> CarrierError:
        text = str(error)
        if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
            return CarrierRefusedError(f"{self._shown} does not speak TLS", "write redis:// instead of rediss://")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            hint = "name the authority: rediss://…?ssl_ca_certs=/path/to/ca.pem"
            return CarrierRefusedError(f"{self._shown} shows a certificate that is not trusted", hint)
        if isinstance(error, TimeoutError | self._redis.TimeoutError):
            is_tls = self._url.startswith("rediss:")
            return CarrierError("no answer (does it speak TLS? if not, write redis://)" if is_tls else "no answer")
        return CarrierError(_plain(text) or type(error).__name__)


async def _answer_of(host: str, port: int, *, is_tls: bool) -> bytes | None:
    """The first bytes that a server says to ``PING``, empty if it says nothing; None if there is no connection."""
    context = None
    if is_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing but PING is sent
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            writer.write(b"PING\r\n")
            return await reader.read(256)
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.transport.abort()


def _no_retries() -> dict[str, Any]:
    """Options against the client's own retries: the link connects again, with its own waits."""
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return {"retry": Retry(NoBackoff(), 0)}


def _refused(text: str, shown: str) -> CarrierError:
    word = text.split(" ", 1)[0]
    if word in ("NOAUTH", "WRONGPASS") or "Authentication required" in text:
        return CarrierRefusedError(f"{shown} wants a password", _REFUSED_HINT)
    if word == "NOPERM":
        hint = "let the user run EVALSHA, SUBSCRIBE and PUBLISH, on keys and channels that begin with {llmbatch:"
        return CarrierRefusedError(f"{shown} does not permit its user what a shared board needs", hint)
    if word in ("MOVED", "CLUSTERDOWN", "CROSSSLOT"):
        return CarrierRefusedError(f"{shown} is a cluster, which is not supported", "name a single server")
    if "DB index" in text:
        return CarrierRefusedError(f"{shown} has no database of this number", "most stores have 0 to 15: take 0")
    if "WRONGTYPE" in text:
        return CarrierError("a key of it holds something else")
    return CarrierError(_plain(text))


def _plain(text: str) -> str:
    """The first line of an error, short, and without what a script's error adds."""
    return text.strip().split("\n")[0].split(" script:")[0][:120]
