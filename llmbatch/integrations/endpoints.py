"""Name the circuit of an HTTP request: its origin, and the model in its path or in a JSON body that is in memory.

Names are shown in logs: they have no path, query or user information of the URL.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from llmbatch.breaker.explain import mask

__all__ = ["Endpoint", "endpoint_of", "model_in_body", "model_in_path"]

MAX_PARSED = 64 * 1024
"""Bytes of a body up to which it is parsed; in a longer one, such as one with images, the name is searched for."""
MAX_SEARCHED = 32 * 1024 * 1024
"""Bytes of a body above which no name is searched for."""
MAX_MODEL = 100
"""Characters of a model's name that are kept."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Gemini and Vertex AI; Azure OpenAI; Bedrock.
_model_in_path = re.compile(r"/(?:models|tunedModels)/([^/:]+):\w+|/deployments/([^/]+)/|/model/([^/]+)/\w+").search
# A quote inside a string is escaped, so this is a key, although perhaps not of the outermost object.
_models_in_body = re.compile(rb'(?<!\\)"model"\s{0,9}:\s{0,9}"([^"\\]{1,400})"').finditer


class Endpoint(NamedTuple):
    """What one circuit stands for."""

    origin: str
    """Scheme, host and port, such as ``https://api.openai.com``; the port only if it is not the scheme's own."""
    model: str = ""
    """The model; empty for requests that name none, such as uploads."""

    def __str__(self) -> str:
        return f"{self.origin} {self.model}".rstrip()


def endpoint_of(scheme: str, host: str, port: int | None, path: str, body: bytes | str | None) -> Endpoint:
    """The endpoint of a request. *port* None: the scheme's own. *body* None: not in memory. Raises nothing."""
    return Endpoint(_origin(scheme, host, port), model_in_path(path) or model_in_body(body))


@lru_cache(1000)
def _origin(scheme: str, host: str, port: int | None) -> str:
    scheme, host = scheme.lower(), host.lower()
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    origin = f"{scheme}://{host}"
    if port is not None and port != _DEFAULT_PORTS.get(scheme):
        origin = f"{origin}:{port}"
    return mask(origin)


def model_in_path(path: str) -> str:
    """The model that the *path* of a URL names; empty if it names none."""
    found = _model_in_path(path)
    return "" if found is None else _shown(unquote(next(filter(None, found.groups()))))


def model_in_body(body: bytes | str | None) -> str:
    """The member ``model`` of a JSON object; empty if there is none.

    Cost: one parse of a body of up to 64 KB. In a longer one the name is searched for, and is empty if there are
    several, so that a request is not delayed by its images.
    """
    if not body:
        return ""
    if isinstance(body, str):
        body = body.encode(errors="replace")
    if len(body) > MAX_PARSED:
        if len(body) > MAX_SEARCHED:
            return ""
        names = {found[1] for found in _models_in_body(body)}
        return _shown(names.pop().decode(errors="replace")) if len(names) == 1 else ""
    if body.lstrip()[:1] != b"{":
        return ""
    try:
        model = json.loads(body)["model"]
    except (ValueError, KeyError, RecursionError):
        return ""
    return _shown(model) if isinstance(model, str) else ""


def _shown(model: str) -> str:
    return _masked(model[: 4 * MAX_MODEL])


@lru_cache(1000)
def _masked(model: str) -> str:
    return mask(model)[:MAX_MODEL]
