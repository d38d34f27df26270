"""Provider of rows that several routes can answer: fallbacks, and pools of routes that are used as one.

Each route is an :class:`~llmbatch.providers.http_provider.HttpProvider` of its own, with its own address and key; all
share one transport. The runner chooses among the routes of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from llmbatch.core.calls import Outcome, Reply, Request, Route
from llmbatch.core.errors import MalformedRowError, MissingKeyError, UsageError
from llmbatch.core.raw_json import parse
from llmbatch.core.rows import Row
from llmbatch.core.secrets import Mask
from llmbatch.providers.catalog import POOL_PREFIX
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.model_use import ModelUse
from llmbatch.providers.resolve import Target
from llmbatch.providers.tier_routes import TIERS

__all__ = ["Member", "SeveralProviders"]


@dataclass(frozen=True, slots=True)
class Member:
    """One provider that serves one model. ``suffix``: follows the model in the label of its route.

    ``weight``: its share of the rows, relative to the others of its pool. ``limits``: its own requests and tokens per
    minute and requests per day.
    """

    provider: HttpProvider
    suffix: str = ""
    weight: float = 1.0
    limits: tuple[float | None, float | None, float | None] = (None, None, None)


class SeveralProviders:
    """Implements :class:`llmbatch.core.ports.Provider`.

    Args:
        first: for rows whose model is not that of a pool; it owns the transport that all share.
        run_pool: the members of the pool that the run names as its model; empty if it names none.
        pools: all pools by name, as rows may name them.
        fallbacks: where rows go while a route of a lower rank takes none, in this order.
        own_place: follows the label of a route of *first* that leads elsewhere than that of a member with its name.
    """

    def __init__(
        self,
        first: HttpProvider,
        *,
        run_pool: Sequence[Member] = (),
        pools: Mapping[str, Sequence[Member]],
        fallbacks: Sequence[Sequence[Member]],
        own_place: str = "",
    ) -> None:
        self._first = first
        self._run_pool = run_pool
        self._pools = pools
        self._fallbacks = fallbacks
        self._own_place = own_place
        self._plain_names = {
            member.provider.run_model
            for members in (*pools.values(), *fallbacks)
            for member in members
            if own_place and not member.suffix
        }
        """The members' models whose labels routes of *first* would have too, though they lead elsewhere."""
        self._placed: dict[Route, Route] = {}
        """Each route of *first* with such a name, as the run knows it."""
        self._owners: dict[str, HttpProvider] = {}
        """The provider of each member's route, by its label."""
        self._routes: dict[tuple[int, Member, Route], Route] = {}
        """Each route of a member as the run knows it, by rank, member, and the provider's own."""

    @property
    def models(self) -> ModelUse:
        """How many rows name their own model."""
        return self._first.models

    def check_model(self) -> None:
        """As :meth:`check_routes`; and refuse a model of the run that no row could be sent to.

        Raises:
            UsageError: what is wrong with it, and what was meant.
        """
        if not self._run_pool:
            self._first.check_model()

    def check_routes(self) -> None:
        """Check that each fallback, and each member of the run's pool, has an address and a key.

        Raises:
            UsageError: what is missing, and of which route.
        """
        for members, what in ((self._run_pool, "the pool"), *((members, "--fallback") for members in self._fallbacks)):
            for member in members:
                try:
                    member.provider.check_model()
                    member.provider.check_target()
                except UsageError as error:
                    name = f"{member.provider.run_model}{member.suffix}"
                    raise type(error)(f"{what}: {name}: {error.message}", hint=error.hint) from None

    def idle_fallbacks(self, row: Row) -> dict[str, None]:
        """The models of the fallbacks that do not know the wire format of *row*, so that it waits for others.

        Raises:
            MalformedRowError: the row can be no request.
        """
        return {
            member.provider.run_model or "": None
            for members in self._fallbacks
            for member in members
            if not member.provider.carries(row)
        }

    def routes(self, row: Row) -> Sequence[Route]:
        """The routes of *row*, preferred first; those of one rank are a pool.

        Raises:
            MalformedRowError: the row can be no request.
            UsageError: the row needs a key, model or provider that is not there.
        """
        pool = self._pool_of(row)
        found: dict[str, Route] = {}
        if pool is None:
            found |= {route.label: route for route in map(self._of_first, self._first.routes(row))}
        else:
            self._add(found, pool, row, rank=0)
        for place, members in enumerate(self._fallbacks, 1):
            self._add(found, members, row, rank=place * TIERS)
        if not found:
            raise MalformedRowError("input_bad_url", "no route of the pool knows the wire format of this row")
        return tuple(sorted(found.values(), key=lambda route: route.rank))

    def _of_first(self, own: Route) -> Route:
        """The route of *first* as the run knows it; *own*: as its provider does."""
        name = own.model or own.label
        if name not in self._plain_names:
            return own
        if own not in self._placed:
            self._placed[own] = replace(own, label=f"{own.label}{self._own_place}", model=name)
        return self._placed[own]

    def _pool_of(self, row: Row) -> Sequence[Member] | None:
        """The members of the pool that answers *row*; None if no pool does."""
        if not self._pools:
            return None
        own = self._first.own_model(row)
        if own is None:
            return self._run_pool or None
        name = str(parse(own))
        if not name.startswith(POOL_PREFIX):
            return None
        pool = self._pools.get(name.removeprefix(POOL_PREFIX))
        if pool is None:
            raise MalformedRowError("input_unknown_provider", f"model is {name}, and there is no such pool")
        return pool

    def _add(self, found: dict[str, Route], members: Sequence[Member], row: Row, *, rank: int) -> None:
        """Add the routes of *members* that can carry *row* to *found*, by label; *rank*: of their preferred tier."""
        for member in members:
            try:
                if not member.provider.carries(row):
                    continue
                routes = member.provider.routes(row)
            except (MissingKeyError, MalformedRowError):
                if rank:
                    continue
                raise
            for own in routes:
                route = self._routes.get((rank, member, own))
                if route is None:
                    route = self._routes[rank, member, own] = _route_of(member, own, rank)
                if route.label not in found:
                    self._owners.setdefault(route.label, member.provider)
                    found[route.label] = route

    def _owner(self, route: Route) -> HttpProvider:
        return self._owners.get(route.label, self._first)

    def request(self, row: Row, route: Route) -> Request:
        """Build the request of *row* on *route*.

        Raises:
            MalformedRowError: the row can be no request.
        """
        request = self._owner(route).request(row, route)
        request.route = route
        return request

    def lookup(self, row: Row, request: Request) -> Outcome | None:
        """See the provider of the request's route."""
        return self._owner(request.route).lookup(row, request)

    def flight_key(self, request: Request) -> bytes | None:
        """None: each request is sent."""
        return None

    def ping(self, like: Request) -> Request | None:
        """The smallest request of the route of *like*."""
        return self._owner(like.route).ping(like)

    async def call(self, request: Request, row: Row | None, *, timeout: float) -> Outcome:  # noqa: ASYNC109
        """Send once by the provider of the request's route. Raises only cancellation."""
        return await self._owner(request.route).call(request, row, timeout=timeout)

    def judge(self, request: Request, reply: Reply) -> Outcome:
        """See the provider of the request's route."""
        return self._owner(request.route).judge(request, reply)

    def target_of(self, row: Row, route: Route) -> Target:
        """See the provider of *route*."""
        return self._owner(route).target_of(row, route)

    @property
    def mask(self) -> Mask:
        """That of the first provider, which knows the keys of the whole environment."""
        return self._first.mask

    async def aclose(self) -> None:
        """Close the transport; idempotent."""
        await self._first.aclose()


def _route_of(member: Member, own: Route, rank: int) -> Route:
    """The route of *member* as the run knows it; *own*: as its provider does."""
    rpm, tpm, rpd = member.limits
    return replace(
        own,
        label=f"{own.label}{member.suffix}",
        model=own.model or own.label,
        rank=rank + own.rank,
        weight=member.weight,
        rpm=rpm,
        tpm=tpm,
        rpd=rpd,
    )
