"""Make refusals that are also the connection error of the SDK that sent a request; find those that were wrapped."""

from __future__ import annotations

import re
import sys
from typing import Any

from llmbatch.breaker.errors import CircuitOpenError
from llmbatch.classify.exceptions import chain

__all__ = ["find_refusal", "refusal_type"]

# How the SDKs that Stainless generates name themselves: "AsyncAzureOpenAI/Python 3.54.0".
_sdk_in = re.compile(r"\w{0,40}?(OpenAI|Anthropic)\w{0,40}/Python").match
_made: dict[tuple[type, type], Any] = {}


def find_refusal(error: BaseException) -> CircuitOpenError | None:
    """The refusal that *error* is, or that it was raised from, as frameworks do; None if nothing was refused."""
    return next((link for link in chain(error) if isinstance(link, CircuitOpenError)), None)


def refusal_type(refusal: type[CircuitOpenError], user_agent: str) -> Any:
    """*refusal*, or its subclass that is also the ``APIConnectionError`` of the SDK with this *user_agent*.

    So both are caught without a look at causes: openai raises its own errors as they are, and at once, where it would
    send any other error through its retries.

    Args:
        refusal: a client's refusal, made of a :class:`CircuitOpenError`'s arguments and ``request=``.
        user_agent: the request's header.
    """
    found = _sdk_in(user_agent)
    sdk = getattr(sys.modules.get(found[1].lower()), "APIConnectionError", None) if found else None
    if not isinstance(sdk, type) or not issubclass(sdk, Exception):
        return refusal
    made = _made.get((refusal, sdk))
    if made is None:
        made = _made[refusal, sdk] = _with_sdk_error(refusal, sdk)
    return made


def _with_sdk_error(refusal: type[CircuitOpenError], sdk: Any) -> type[CircuitOpenError]:
    def __init__(self: Any, *args: Any, request: object = None) -> None:  # noqa: N807
        sdk.__init__(self, message=str(CircuitOpenError(*args)), request=request)
        self.args = args

    # The SDK's first: the clients' classes take fewer arguments and pass them on.
    return type(refusal.__name__, (sdk, refusal), {"__init__": __init__, "__module__": refusal.__module__})
