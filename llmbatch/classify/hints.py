"""What to do about a refusal that only the user can end: the hints of :mod:`llmbatch.classify.body_rules`."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "ACCOUNT",
    "ADDRESS",
    "GATEWAY",
    "KEY",
    "LATER",
    "MODEL",
    "NETWORK",
    "NO_QUOTA",
    "PAY",
    "REGION",
    "RENEW",
    "hint_for_key",
]

PAY = "add credit or raise the spending limit at the provider, then run the same command again"
LATER = "the limit ends by itself: run the same command again later, or raise it at the provider"
KEY = "check the API key: is it set, complete, not revoked, and allowed to use this model?"
ACCOUNT = "the provider has closed or suspended this account: see its console or its support"
RENEW = (
    "the access token has expired: get a new one (Google Cloud: gcloud auth print-access-token), set it, and run the "
    "same command again"
)
GATEWAY = (
    "a firewall or gateway before the provider refuses these requests: check the base URL, this machine's address "
    "(VPN, proxy, country) and what the rows contain"
)
NETWORK = (
    "the account's resource takes requests from certain networks only: run where it can be reached (VPN, private "
    "endpoint), or change its network settings"
)
REGION = (
    "the provider does not serve this machine's address: check the VPN or proxy, or choose a provider that serves it"
)
NO_QUOTA = "this account has no quota for this model: enable billing or ask for quota, or choose another model"
MODEL = (
    "check the model's name and access to it, and the base URL (a missing /v1?); "
    "--endpoint chooses another wire format, such as embeddings"
)
ADDRESS = (
    "check the base URL: it should be the address of the API itself, such as https://host/v1; "
    "or choose another wire format with --endpoint"
)

_NO_KEYS = frozenset({"content-type", "accept", "accept-encoding", "user-agent", "anthropic-version"})
"""Headers of every request, in lower case."""


def hint_for_key(headers: Iterable[str]) -> str:
    """:data:`KEY`, or what sends a key where the names of the request's *headers* show that none was sent."""
    if any(name.lower() not in _NO_KEYS for name in headers):
        return KEY
    return "no key was sent: name the environment variable that holds it (--api-key-env NAME)"
