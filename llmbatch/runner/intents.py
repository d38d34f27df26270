"""Hints for options that do not exist here, by the names that other tools use for them.

Misspelled options are found by their spelling. These are spelled right; the most similar option would be a wrong hint.
"""

from __future__ import annotations

__all__ = ["find_intent"]

_CONCURRENCY = "use -c N (--concurrency): the maximum of requests in flight"
_ATTEMPTS = "use --max-attempts N: failed attempts that end a row; outages never count against it"
_RESUME = "the same command again resumes: finished rows are not sent twice (--overwrite starts over)"
_PARAMETER = "request parameters go through -P: -P {}"
_MODEL = "use -m PROVIDER/MODEL (--model)"
_KEY = "keys come from the environment, such as OPENAI_API_KEY; --api-key-env names another variable"
_LIMIT = "use -n N (--limit): only the first N rows"
_BASE_URL = "use --base-url URL"
_COST = "there is no cost limit yet: llmbatch check estimates tokens, -P max_tokens=500 bounds each answer"
_BACKOFF = "waits between attempts follow from the answers; --recovery-timeout is the longest wait between probes"
_INPUT = "name the input without a flag: llmbatch run prompts.jsonl"
_FORMAT = "the format is found by itself; see --help for what an INPUT may be"

_INTENTS: dict[str, str] = {
    **dict.fromkeys(
        ("workers", "num-workers", "n-workers", "max-workers", "threads", "num-threads", "parallel", "parallelism"),
        _CONCURRENCY,
    ),
    **dict.fromkeys(
        ("jobs", "max-parallel", "parallel-requests", "max-parallel-requests", "concurrent", "batch-size", "in-flight"),
        _CONCURRENCY,
    ),
    **dict.fromkeys(
        ("retries", "max-retries", "num-retries", "n-retries", "retry", "attempts", "max-tries", "tries"), _ATTEMPTS
    ),
    **dict.fromkeys(
        ("resume", "continue", "restart", "checkpoint", "skip-existing", "skip-done", "incremental"), _RESUME
    ),
    **dict.fromkeys(("model-name", "model-id", "llm", "engine", "deployment", "provider"), _MODEL),
    **dict.fromkeys(("api-key", "key", "token", "apikey", "auth-token", "bearer", "openai-api-key"), _KEY),
    **dict.fromkeys(("api-key-file", "dotenv", "env"), "use --env-file PATH: a file of NAME=VALUE lines"),
    **dict.fromkeys(("max-rows", "num-rows", "rows", "head", "first", "sample", "n-samples", "max-samples"), _LIMIT),
    **dict.fromkeys(("api-base", "api-url", "endpoint-url", "url", "host", "server", "openai-base-url"), _BASE_URL),
    **dict.fromkeys(("max-cost", "budget", "max-budget", "cost-limit", "cost", "max-spend", "prices"), _COST),
    **dict.fromkeys(
        ("backoff", "retry-delay", "retry-wait", "initial-delay", "max-backoff", "sleep", "delay"), _BACKOFF
    ),
    **dict.fromkeys(("input", "in", "file", "input-path", "prompts"), _INPUT),
    **dict.fromkeys(("out", "output-path", "out-file", "outfile", "results", "output-jsonl"), "use -o PATH (--output)"),
    **dict.fromkeys(
        ("output-dir", "out-dir", "output-folder"), "use -o PATH with the name of a file, such as -o results/run.jsonl"
    ),
    **dict.fromkeys(("format", "input-format", "csv", "jsonl", "parquet"), _FORMAT),
    **dict.fromkeys(("system-prompt", "system-message", "instructions"), "use -s TEXT (--system)"),
    **dict.fromkeys(("headers", "extra-headers", "extra-header"), "use --header NAME=VALUE, once for each"),
    **dict.fromkeys(
        ("request-timeout", "timeout-s", "read-timeout"), "use --timeout DURATION: the limit of one attempt"
    ),
    **dict.fromkeys(("rps", "rate-limit", "rate", "qps", "requests-per-minute"), "use --rpm N: requests per minute"),
    **dict.fromkeys(("tokens-per-minute",), "use --tpm N: tokens, input and output, per minute"),
    **dict.fromkeys(("dryrun", "validate", "estimate", "no-send"), "use --dry-run, or llmbatch check"),
    **dict.fromkeys(("verbosity", "debug", "log-level"), "use -v, or -vv for more"),
    **dict.fromkeys(("silent", "no-progress"), "use -q (--quiet), or --progress none"),
    **dict.fromkeys(("yes", "y", "no-input"), "there is nothing to confirm: leave it out"),
    **dict.fromkeys(("retry-errors", "only-failed", "rerun-failed", "failed"), "use --retry-failed"),
    **dict.fromkeys(("fresh", "clean", "no-resume", "clobber"), "use --overwrite: start over"),
    **dict.fromkeys(("shuffle", "random-seed"), "rows are sent in order; --seed fixes every random draw"),
    "stream": "answers are read whole: a result line cannot hold a stream",
    "fallback": "there are no fallback routes yet: --on-outage defer leaves rows for another command",
    "cache": "there is no cache yet; finished rows are never sent twice",
    "schema": 'send the schema as a parameter: -P response_format=\'{"type":"json_schema",…}\'',
}

_PARAMETERS: dict[str, str] = {
    "max-tokens": "max_tokens=500",
    "max-output-tokens": "max_output_tokens=500",
    "max-completion-tokens": "max_completion_tokens=500",
    "max-new-tokens": "max_tokens=500",
    "temperature": "temperature=0.2",
    "temp": "temperature=0.2",
    "top-p": "top_p=0.9",
    "top-k": "top_k=40",
    "stop": "stop='[\"END\"]'",
    "n-choices": "n=2",
    "presence-penalty": "presence_penalty=0.5",
    "frequency-penalty": "frequency_penalty=0.5",
    "reasoning-effort": "reasoning_effort=low",
    "response-format": 'response_format=\'{"type":"json_object"}\'',
    "json-mode": 'response_format=\'{"type":"json_object"}\'',
    "logprobs": "logprobs=true",
    "tools": "tools='[…]'",
    "dimensions": "dimensions=256",
    "service-tier": "service_tier=flex",
}


def find_intent(name: str) -> str:
    """Return the hint for *name*, an option or a setting; empty if there is none."""
    word = name.strip("-").replace("_", "-").lower()
    if word in _PARAMETERS:
        return _PARAMETER.format(_PARAMETERS[word])
    return _INTENTS.get(word, "")
