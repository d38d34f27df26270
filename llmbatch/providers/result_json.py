"""The JSON text of what a function returned. It never fails, so that no answer that was paid for is lost."""

from __future__ import annotations

import logging

from llmbatch.core.json_form import nearest_json_form
from llmbatch.core.raw_json import dumps

__all__ = ["ResultJson"]

_log = logging.getLogger("llmbatch.results")


class ResultJson:
    """Encodes results of one run, and logs a warning for the first that has no exact JSON form."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._is_logged = False

    def encode(self, result: object) -> str:
        """*result* as JSON text; parts that have no JSON form become text. Raises nothing that is an Exception."""
        try:
            return dumps(result)
        except Exception:  # noqa: BLE001 - a subclass of dict may raise anything as it is read
            form, lost = nearest_json_form(result)
        if lost:
            self._warn(lost)
        try:
            return dumps(form)
        except Exception:  # noqa: BLE001 - such as memory that is used up
            return dumps(type(result).__name__)

    def _warn(self, lost: list[str]) -> None:
        if self._is_logged:
            return
        self._is_logged = True
        more = f" and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        _log.warning(
            "a result of %s has parts without a JSON form, written as text: %s%s (logged once; `Result.value` has the "
            "object itself)",
            self._function,
            lost[0][:300],
            more,
        )
