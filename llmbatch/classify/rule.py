"""Data types of classification rules and how they match. The rules are in :mod:`llmbatch.classify.body_rules`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from llmbatch.classify.patterns import NEEDED
from llmbatch.core.calls import Scope, Verdict
from llmbatch.core.raw_json import JSON

__all__ = ["Facts", "Match", "Rule"]

# From the first opening quote to the last closing one: quoted text may contain quotes itself.
_quoted = re.compile(r"(?<!\w)'.*'(?!\w)|\".*\"|`.*`", re.DOTALL)
_quoted_message = re.compile(r"""['"](?:message|error)['"]\s*:\s*(['"])(.*?)\1\s*[,}]""", re.DOTALL)


@dataclass(slots=True)
class Facts:
    """Facts that rules match against. ``status`` is 0 if a success status came with a body that is not a success.

    ``retry_after`` is the hint of the answer, seconds. ``asked`` is the request, as far as it is known: words that
    occur in it may be an echo, and prove nothing.
    """

    status: int
    codes: tuple[str, ...]
    message: str
    headers: Mapping[str, str]
    body: JSON
    retry_after: float | None
    asked: bytes = b""

    def says(self, words: str, *, unquoted: bool = False) -> bool:
        """Whether the message itself matches *words*, a pattern; *unquoted*: quoted text does not count."""
        message = self.message
        needed = NEEDED.get(words)
        if needed is not None:
            lowered = message.lower()
            if not any(part in lowered for part in needed):
                return False
        if unquoted:
            # But an upstream's whole error, quoted by the gateway in front of it, is not an echo.
            inner = (found[2] for found in _quoted_message.finditer(message))
            message = " ".join((_quoted.sub("''", message), *inner))
        asked: bytes | None = None
        for found in re.finditer(words, message, re.IGNORECASE):
            if asked is None:
                asked = self.asked.lower()
            if not asked or found[0].lower().encode(errors="replace") not in asked:
                return True
        return False


_ONE_REQUEST = frozenset({400, 422})


class Match(NamedTuple):
    """A match: the code to report (empty: the body's own), and whether it is based on words alone."""

    code: str
    by_words: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of the table: when it applies, and what it decides.

    It applies when the status is one of ``statuses`` (None: any), and, where any of the three is given, one of the
    body's codes fully matches ``codes``, or the message contains ``words``, or ``when`` holds. ``words_in`` narrows
    the statuses for ``words`` alone. ``code`` replaces the body's own if words decided. ``resumes`` gives the
    instant from which it may work again. ``lacks_capacity``: see :class:`~llmbatch.core.calls.Outcome`.
    """

    name: str
    verdict: Verdict
    scope: Scope
    statuses: frozenset[int] | None = None
    codes: str = ""
    words: str = ""
    words_in: frozenset[int] | None = None
    when: Callable[[Facts], bool] | None = None
    retry: bool = False
    row_is_bad: bool = False
    key_refused: bool = False
    min_backoff: float = 0.0
    least_pause: float = 0.0
    resumes: Callable[[datetime, str], datetime | None] | None = None
    code: str = ""
    hint: str = ""
    lacks_capacity: bool = False

    def match(self, facts: Facts) -> Match | None:
        """Match the rule against an answer; None if it does not apply."""
        if self.statuses is not None and facts.status not in self.statuses:
            return None
        if not (self.codes or self.words or self.when):
            return Match("")
        if self.codes:
            for code in facts.codes:
                if re.fullmatch(self.codes, code, re.IGNORECASE):
                    return Match(code)
        if self.when is not None and self.when(facts):
            return Match(self.code)
        if self.words and (self.words_in is None or facts.status in self.words_in):
            # Refusals of one request quote prompts, and here words would refuse the whole account.
            unquoted = self.verdict == "account_refused" and facts.status in _ONE_REQUEST
            return Match(self.code, by_words=True) if facts.says(self.words, unquoted=unquoted) else None
        return None
