"""Answer requests to a FastAPI or Starlette app with 503 and ``Retry-After`` where a circuit refused the call.

::

    app.add_exception_handler(CircuitOpenError, circuit_open_response)
"""

from __future__ import annotations

import math

from llmbatch.breaker.errors import CircuitOpenError

try:
    from starlette.requests import Request
    from starlette.responses import JSONResponse
except ImportError as error:
    raise ImportError("llmbatch.integrations.fastapi needs fastapi or starlette: pip install fastapi") from error

__all__ = ["CircuitOpenError", "circuit_open_response"]


async def circuit_open_response(request: Request, error: Exception) -> JSONResponse:
    """Return 503, with the seconds until a call may be admitted as ``Retry-After``, rounded up.

    The body says no more than that: names of circuits have the hosts and models that an app calls. A circuit that was
    forced open names no time.
    """
    wait = error.retry_after if isinstance(error, CircuitOpenError) else math.inf
    headers = {} if not math.isfinite(wait) else {"Retry-After": str(math.ceil(wait))}
    return JSONResponse({"detail": "A service that this one needs is down."}, status_code=503, headers=headers)
