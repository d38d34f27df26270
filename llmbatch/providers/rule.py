"""What a rule of the table is, and when it applies. The rules themselves: :mod:`llmbatch.providers.rules`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from llmbatch.jsontext import JSON
from llmbatch.records import Scope, Verdict

__all__ = ["Evidence", "Rule"]


@dataclass(slots=True)
class Evidence:
    """What a rule looks at. ``status`` is 0 where a success status came with a body that stands for none.

    ``pause`` is the hint of the answer, seconds.
    """

    status: int
    codes: tuple[str, ...]
    message: str
    headers: Mapping[str, str]
    body: JSON
    pause: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of the table: where it applies, and what it says then.

    It applies when the status is one of ``statuses`` (None: any), and, where any of the three is given, one of the
    body's codes fully matches ``codes``, or the message contains ``words``, or ``when`` holds. ``words_in`` narrows
    the statuses for ``words`` alone. ``code`` stands for the body's own where words decided. ``resumes`` gives the
    instant from which it may work again.
    """

    name: str
    verdict: Verdict
    scope: Scope
    statuses: frozenset[int] | None = None
    codes: str = ""
    words: str = ""
    words_in: frozenset[int] | None = None
    when: Callable[[Evidence], bool] | None = None
    retry: bool = False
    final: bool = False
    auth: bool = False
    least_wait: float = 0.0
    least_pause: float = 0.0
    resumes: Callable[[datetime, str], datetime | None] | None = None
    code: str = ""
    advice: str = ""

    def match(self, evidence: Evidence) -> str | None:
        """None where the rule does not apply, else the code to report (empty: the body's own)."""
        if self.statuses is not None and evidence.status not in self.statuses:
            return None
        if not (self.codes or self.words or self.when):
            return ""
        if self.codes:
            for code in evidence.codes:
                if re.fullmatch(self.codes, code, re.IGNORECASE):
                    return code
        if self.when is not None and self.when(evidence):
            return self.code
        if self.words and (self.words_in is None or evidence.status in self.words_in):
            return self.code if re.search(self.words, evidence.message, re.IGNORECASE) else None
        return None
