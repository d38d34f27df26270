"""The rules by status, for answers whose body says nothing that a rule of :mod:`llmbatch.classify.body_rules` knows."""

from __future__ import annotations

from llmbatch.classify.hints import ADDRESS, KEY, MODEL, PAY
from llmbatch.classify.rule import Rule

__all__ = ["ROW_RULE", "STATUS_RULES"]

_SMALL_BYTES = 16_384
"""No server's limit for request bodies is below this."""

STATUS_RULES: tuple[Rule, ...] = (
    Rule(name="400", verdict="rejected", scope="row", statuses=frozenset({400})),
    Rule(
        name="401, 403 key refused",
        verdict="account_refused",
        scope="key",
        statuses=frozenset({401, 403}),
        retry=True,
        key_refused=True,
        hint=KEY,
    ),
    Rule(name="402 pay", verdict="account_refused", scope="key", statuses=frozenset({402}), hint=PAY),
    Rule(name="404, 410", verdict="account_refused", scope="model", statuses=frozenset({404, 410}), hint=MODEL),
    Rule(
        name="405, 407, 426 no API here",
        verdict="account_refused",
        scope="provider",
        statuses=frozenset({405, 407, 426}),
        hint=ADDRESS,
    ),
    Rule(
        name="408, 424, 425, 499",
        verdict="failure",
        scope="provider",
        statuses=frozenset({408, 424, 425, 499}),
        retry=True,
    ),
    Rule(name="409", verdict="rejected", scope="row", statuses=frozenset({409}), retry=True),
    # A proxy's own limit of bodies, or a broken backend: rows of this size should not be too large.
    Rule(
        name="413 of a small request",
        verdict="rejected",
        scope="row",
        statuses=frozenset({413}),
        when=lambda facts: 0 < len(facts.asked) < _SMALL_BYTES,
        code="request_too_large",
    ),
    Rule(
        name="413",
        verdict="rejected",
        scope="row",
        statuses=frozenset({413}),
        row_is_bad=True,
        code="request_too_large",
    ),
    Rule(name="429", verdict="throttled", scope="key", statuses=frozenset({429}), retry=True, min_backoff=1.0),
    Rule(
        name="498, 503, 529 overloaded",
        verdict="failure",
        scope="provider",
        statuses=frozenset({498, 503, 529}),
        retry=True,
        min_backoff=5.0,
    ),
    # Either the row asks for what this server lacks or the address is wrong: other rows' answers show which.
    Rule(name="501", verdict="rejected", scope="row", statuses=frozenset({501})),
    Rule(
        name="3xx another address",
        verdict="account_refused",
        scope="provider",
        statuses=frozenset(range(300, 400)),
        hint=ADDRESS,
    ),
    Rule(name="other 4xx", verdict="rejected", scope="row", statuses=frozenset(range(400, 500))),
    # 500, 502, 504, 520 to 530 and similar; 1xx; and a success status with a bad body.
    Rule(name="anything else", verdict="failure", scope="provider", retry=True),
)

ROW_RULE = Rule(name="this row's answer went wrong", verdict="rejected", scope="row", retry=True)
"""For a success status without an answer that is not the provider's failure: like a 409, try again."""
