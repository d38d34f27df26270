"""Remembers which models refuse to be asked for a schema in their wire format's way, and how they are asked instead.

A model that does not know the parameter says so with its first refusal. The same request is then sent in the next way
(:meth:`~llmbatch.providers.structured.ask.SchemaAsker.ask_otherwise`); once one is taken, all that follow are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from llmbatch.core.calls import Outcome, Request, Route
from llmbatch.providers.structured.ask import SchemaAsker

__all__ = ["RefusedForms", "names_the_form"]

_MOST_ROUTES: Final = 1024
_STATUSES: Final = frozenset({400, 422})
_WORDS: Final = (
    "response[ _]format|json[ _]schema|json[ _]object|json[ _]mode|structured[ _]outputs?|text[._]format"
    "|output[ _]format|output[ _]config"
)
_find_words = re.compile(_WORDS, re.IGNORECASE).search
_find_param = re.compile(rf'"param":\s*"[^"]*(?:{_WORDS})', re.IGNORECASE).search


def names_the_form(outcome: Outcome) -> bool:
    """Whether *outcome* is a refusal that names a parameter for the form of answers."""
    if outcome.verdict != "rejected" or outcome.status not in _STATUSES:
        return False
    return _find_words(outcome.message) is not None or _find_param(outcome.body or "") is not None


class RefusedForms:
    """How often each route has to be asked in another way; *warn* is called once for each.

    Of at most 1,024 routes; of more, it is learned anew.
    """

    def __init__(self, asker: SchemaAsker, warn: Callable[[str], None]) -> None:
        self._asker = asker
        self._warn = warn
        self._steps: dict[Route, int] = {}

    def as_taken(self, request: Request) -> tuple[Request, int]:
        """*request* in the way that its route takes, as far as that is known, and how many steps that is from it."""
        steps = self._steps.get(request.route, 0)
        for _ in range(steps):
            request = self.next(request) or request
        return request, steps

    def next(self, request: Request) -> Request | None:
        """*request* in the next way; None if it asks for no schema, or there is no other way."""
        body = self._asker.ask_otherwise(request.endpoint, request.body)
        if body is None:
            return None
        return replace(request, body=body, tokens=request.tokens + max(0, len(body) - len(request.body)) // 4)

    def learn(self, route: Route, steps: int, refusal: Outcome) -> None:
        """Note that *route* takes the way that is *steps* from the first one, which it refused with *refusal*."""
        if self._steps.get(route, 0) >= steps:
            return
        if len(self._steps) >= _MOST_ROUTES:
            self._steps.clear()
        self._steps[route] = steps
        self._warn(
            f"{route.label} refuses how --schema asks for answers: {refusal.message}; "
            "it is asked in another way from now on, and answers are checked all the same"
        )
