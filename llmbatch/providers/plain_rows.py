"""Requests of the commonest rows, which hold a prompt or messages and nothing else that is sent.

The request of the first row with certain members is composed as any other. What stands before and behind its content
is the same for all later ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from llmbatch.core.calls import Request
from llmbatch.core.token_estimate import input_tokens
from llmbatch.providers.formats.file_parts import may_name_files

__all__ = ["PlainRows", "RowKind"]

_CONTENT: Final = frozenset({"prompt", "messages"})
_PLAIN: Final = _CONTENT | {"model", "metadata"}
"""Members of a plain row: its content, its model, and what is never sent."""
_MOST_KINDS: Final = 64


class RowKind:
    """What the requests of rows with the same members and the same model have in common."""

    __slots__ = ("_after", "_before", "_like", "_opening", "_sized", "has_model", "routes", "source")

    def __init__(self, source: str, before: bytes, after: bytes, request: Request, *, has_model: bool) -> None:
        self.source = source
        """The member that holds the content."""
        self.has_model = has_model
        """Whether the rows name their model."""
        self.routes = (request.route,)
        self._opening = '"' if source == "prompt" else "[{"
        self._before, self._after = before, after
        self._like = replace(request, body=b"")
        """A request without its body, which may be large."""
        self._sized = request.tokens - input_tokens(request.body)
        """Tokens of the answers."""

    def suits(self, text: str) -> bool:
        """Whether a row with *text*, JSON, as its content is composed as the first one was."""
        return text.startswith(self._opening) and (self.source == "prompt" or not may_name_files(text))

    def request(self, text: str) -> Request:
        """The request of a row with *text* as its content."""
        like, body = self._like, b"%b%b%b" % (self._before, text.encode(), self._after)
        return Request(
            *(like.route, like.url, like.headers, body, like.endpoint, input_tokens(body) + self._sized),
            *(like.settings, like.max_output_tokens, like.answers),
        )


class PlainRows:
    """Knows the kinds of plain rows. *takes_messages*: messages are sent as they are, and nothing is added to them."""

    def __init__(self, *, takes_messages: bool) -> None:
        self._names = _PLAIN if takes_messages else _PLAIN - {"messages"}
        self._kinds: dict[tuple[str | None, ...], RowKind] = {}

    def forget(self) -> None:
        """Compose the next rows as any others: requests have changed."""
        self._kinds.clear()

    def find(self, fields: Mapping[str, str]) -> RowKind | None:
        """The kind of a row with *fields* (JSON texts by name); None if it is not known yet, or no plain row."""
        kind = self._kinds.get((*fields, fields.get("model")))
        return kind if kind is not None and kind.suits(fields[kind.source]) else None

    def learn(self, fields: Mapping[str, str], request: Request, *, has_model: bool) -> None:
        """Remember *request*, which was composed for a row with *fields*, if it is a plain row."""
        if not fields.keys() <= self._names or len(self._kinds) >= _MOST_KINDS:
            return
        sources = fields.keys() & _CONTENT
        source = next(iter(sources), "")
        if len(sources) != 1 or (source == "messages" and request.endpoint != "chat"):
            return
        content = fields[source].encode()
        before, found, after = request.body.partition(content)
        kind = RowKind(source, before, after, request, has_model=has_model)
        # Text that is found twice may be part of something else, such as a role.
        if found and content not in after and kind.suits(fields[source]):
            self._kinds[*fields, fields.get("model")] = kind
