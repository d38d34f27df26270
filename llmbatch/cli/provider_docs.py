"""The table of providers as Markdown: ``python -m llmbatch.cli.provider_docs > docs/providers.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from llmbatch.classify.body_rules import BODY_RULES, STATUS_RULES, UNKNOWN
from llmbatch.classify.rate_headers import REPORTED
from llmbatch.classify.rule import Rule
from llmbatch.classify.rule_sources import SOURCES
from llmbatch.providers.catalog import CHECKED, PROVIDERS, KnownProvider
from llmbatch.providers.tiers import FLEX

__all__ = ["to_markdown"]

_HEAD = f"""# Providers

Made from the table in `llmbatch/providers/catalog.py` by `python -m llmbatch.cli.provider_docs`.

`-m PROVIDER/MODEL` chooses the provider, and the key of the variable pays. Everything after the first `/` is sent as
the model's name, so `together/meta-llama/…` and `nvidia/nvidia/…` are right. Any other OpenAI-compatible server is
reached with `--base-url URL` (`--api-key-env NAME` if it wants a key); the URL of an endpoint
(`…/v1/chat/completions`) is understood. Addresses and variables were looked up in {CHECKED} at the sources below.

| provider | | key | base URL | format | source |
|---|---|---|---|---|---|"""

_TAIL = """
A row's own model wins over `-m`. A name without a provider goes to the provider of `-m`, to `--base-url`, or else by
the row's format: to Anthropic for its messages, to OpenAI for everything else.

Prompts do not go to the wrong company by a slip. Where such a name would go to a provider that serves only its own
models, at its own address, the name of another company's model (`claude-…`, `gemini-…`, `google/…`, `bedrock/…`) or a
provider's name misspelt (`opneai/…`) is refused: with exit code 2 for `-m`, as a `failed` line with
`input_unknown_provider` for a row. To send such a name all the same, put the provider before it: `openai/opneai/…`.

## Headers

`--header NAME=VALUE` (repeatable; in a configuration file the table `[headers]`, in Python `headers={…}`) adds a header
to requests to `--base-url`, or else to the provider of `-m`. `NAME=$VARIABLE` takes the value from the environment (in
single quotes, so that the shell leaves it) and masks it like a key; `Bearer $VARIABLE` works too. From the command line
and from files, keys are accepted in no other way. `Host`, `Authorization` and what describes the body cannot be set. A
`./llmbatch.toml` that is not trusted may not use variables.

```sh
llmbatch run prompts.jsonl -m my-model --base-url https://gateway.example/v1 \\
  --header 'x-portkey-api-key=$PORTKEY_API_KEY'
```
"""

_TIERS = """## Flex tiers

What `--tier flex` ([tiers.md](tiers.md)) asks for: `"service_tier": "flex"` in the body of requests of these endpoints.
The table is in `llmbatch/providers/tiers.py`.

| provider | endpoints | price of the standard tier | without capacity | | source, looked up |
|---|---|---|---|---|---|"""


_LIMITS = f"""
## Rate limits

What each provider reports with good answers, and llmbatch obeys ([limits.md](limits.md)). Looked up in {CHECKED}; the
table is in `llmbatch/classify/rate_headers.py`.

| provider | headers | resets | |
|---|---|---|---|"""


_ANSWERS = """
## What an answer means

The rules in the order in which they are tried; the first that matches decides. The body counts before the status, and
money before rate limits. The rules are data: `BODY_RULES` in `llmbatch/classify/body_rules.py` and `STATUS_RULES` in
`status_rules.py`, their codes and words in `patterns.py` (each with its report), their sources in `rule_sources.py`
beside them. A status of 200 means a body that is not an answer. [Row or route](evidence.md) says what follows.

| answer | statuses | meaning | code in the line | source, date |
|---|---|---|---|---|"""

_ADD_A_RULE = """
### To add a rule

An answer that llmbatch misreads is mended by a row of the table:

1. Add the answer to `FIELD` in `tests/classify/classify_field_answers.py`: status, body (real codes and structure,
   words of your own), and what it should come to. The test fails.
2. If a rule means the same, add the code or the words to its pattern in `llmbatch/classify/patterns.py`, with who
   answers so, where it was reported, and when. Words must also contain one of the pattern's words in `NEEDED`.
3. Else add a `Rule` to `BODY_RULES`, before the rules that it must win against, and its `Source` to `SOURCES` in
   `llmbatch/classify/rule_sources.py`. `codes` match as a whole, `words` anywhere in the message, in `words_in`
   statuses only; words that occur in the request itself are taken for an echo.
4. Run `pytest tests/classify` and write this page again: `python -m llmbatch.cli.provider_docs > docs/providers.md`.
   Answers that must end a whole run in a certain way have a case in `tests/e2e/test_e2e_answers.py`.
"""

_SERVER_ERRORS = frozenset(range(500, 600))


def to_markdown() -> str:
    """The whole page."""
    providers = (f"| {' | '.join(_cells(provider))} |" for provider in PROVIDERS.values())
    return "\n".join(
        (_HEAD, *providers, _TAIL, _TIERS, *_tiers(), _LIMITS, *_limits(), _ANSWERS, *_rules(), _ADD_A_RULE)
    )


def _limits() -> Iterator[str]:
    for row in REPORTED:
        yield f"| {row.provider} | {f'`{row.headers}`' if row.resets else row.headers} | {row.resets} | {row.trap} |"


def _rules() -> Iterator[str]:
    for rule in (*BODY_RULES, *STATUS_RULES):
        source = SOURCES[rule.name]
        code = f"`{rule.code}`" if rule.code else "the body's"
        yield f"| {rule.name} | {_statuses(rule)} | {_meaning(rule)} | {code} | {source.where}, {source.date} |"


def _statuses(rule: Rule) -> str:
    """The statuses in which it counts; for rules by codes too, those of its words."""
    only_words = bool(rule.words) and not rule.codes and rule.when is None
    statuses = rule.statuses or (rule.words_in if only_words else None)
    if statuses is None or len(statuses) > 200:
        return "any" if statuses is None else "all but 429"
    numbers = [str(status) if status != UNKNOWN else "200" for status in sorted(statuses - _SERVER_ERRORS)]
    if statuses >= _SERVER_ERRORS:
        return ", ".join([*numbers, "5xx"])
    if statuses in (frozenset(range(300, 400)), frozenset(range(400, 500))):
        return f"{numbers[0][0]}xx"
    return ", ".join([*numbers, *map(str, sorted(statuses & _SERVER_ERRORS))])


def _meaning(rule: Rule) -> str:
    match rule.verdict:
        case "account_refused":
            whose = {"key": "the account or key", "model": "the model"}.get(rule.scope, "the address")
            return f"{whose} is refused: stop, or go on at the fallback"
        case "rejected" if rule.row_is_bad:
            return "the row itself: failed at once"
        case "rejected":
            return "the row, if others pass: resent, then failed"
        case "throttled":
            return "slow down, send it again"
        case _:
            return "the provider fails: send it again, count it for the circuit"


def _tiers() -> Iterator[str]:
    for row in FLEX.values():
        source = f"<{row.source}>" if "://" in row.source else f"[{row.source}]({row.source.rpartition('/')[2]})"
        endpoints = ", ".join(sorted(row.endpoints))
        yield f"| `{row.provider}/` | {endpoints} | {row.price} | {row.lack} | {row.note} | {source}, {row.checked} |"


def _cells(provider: KnownProvider) -> Iterator[str]:
    yield f"`{provider.name}/`"
    yield ". ".join(part.rstrip(".") for part in (provider.title, provider.note) if part)
    names = " or ".join(f"`{name}`" for name in (provider.key_env, provider.other_key_env) if name) or "none"
    yield names if provider.needs_key or not provider.key_env else f"{names}, if set"
    yield _base_url(provider)
    yield provider.endpoint
    yield f"<{provider.source}>" if "://" in provider.source else f"[{provider.source}](outages.md)"


def _base_url(provider: KnownProvider) -> str:
    url = provider.base_url.replace("{account}", f"${provider.account_env}")
    if provider.base_env and not url:
        return f"`{provider.base_env}`" + (f" + `{provider.host_path}`" if provider.host_path else "")
    return " or ".join(f"`{part}`" for part in (url, provider.base_env) if part) or "none"


if __name__ == "__main__":
    sys.stdout.write(to_markdown())
