"""Hints for options that do not exist here, by the names that other tools use for them.

Misspelled options are found by their spelling. These are spelled right; the most similar option would be a wrong hint.
"""

from __future__ import annotations

__all__ = ["EMPTY_VARIABLE", "find_command", "find_intent"]

EMPTY_VARIABLE = "the flag before it has lost its value: is a variable of the shell empty?"
"""For a flag whose value is the next flag, as after ``--base-url $URL`` without quotes."""

_LEAST_RUN_TOGETHER = 6

_CONCURRENCY = "use -c N (--concurrency): the maximum of requests in flight"
_ATTEMPTS = "use --max-attempts N: failed attempts that end a row; outages never count against it"
_RESUME = "the same command again resumes: finished rows are not sent twice (--overwrite starts over)"
_PARAMETER = "request parameters go through -P: -P {}"
_MODEL = "use -m PROVIDER/MODEL (--model)"
_KEY = "keys come from the environment, such as OPENAI_API_KEY; --api-key-env names another variable"
_LIMIT = "use -n N (--limit): only the first N rows"
_BASE_URL = "use --base-url URL"
_COST = "use --max-cost USD; llmbatch check estimates the cost, -P max_tokens=500 bounds each answer"
_PRICES = "use --prices FILE: a TOML file of prices in US$ per million tokens"
_BACKOFF = "waits between attempts follow from the answers; --recovery-timeout is the longest wait between probes"
_INPUT = "name the input without a flag: llmbatch run prompts.jsonl"
_FORMAT = "the format is found by the file's ending; --input-format names another one"

_INTENTS: dict[str, str] = {
    **dict.fromkeys(
        ("num-workers", "n-workers", "max-workers", "threads", "num-threads", "parallel", "parallelism"),
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
    **dict.fromkeys(("budget", "cost-limit", "cost", "max-spend", "cost-cap", "spend-limit"), _COST),
    **dict.fromkeys(("price", "price-file", "pricing", "price-list"), _PRICES),
    **dict.fromkeys(
        ("backoff", "retry-delay", "retry-wait", "initial-delay", "max-backoff", "sleep", "delay"), _BACKOFF
    ),
    **dict.fromkeys(("input", "in", "file", "input-path", "prompts"), _INPUT),
    **dict.fromkeys(("out", "output-path", "out-file", "outfile", "results", "output-jsonl"), "use -o PATH (--output)"),
    **dict.fromkeys(
        ("output-dir", "out-dir", "output-folder"), "use -o PATH with the name of a file, such as -o results/run.jsonl"
    ),
    **dict.fromkeys(("format", "csv", "jsonl", "parquet"), _FORMAT),
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
    **dict.fromkeys(("w", "threads-count", "nproc"), _CONCURRENCY),
    **dict.fromkeys(("r", "retry-on-error", "retry-count"), _ATTEMPTS),
    **dict.fromkeys(
        ("prompt-template", "prompt", "p", "input-column", "text-column"),
        "use -t TEXT (--template), such as -t 'Sentiment of: {{ text }}', or --prompt-column NAME",
    ),
    **dict.fromkeys(
        ("fail-fast", "stop-on-error", "max-errors", "max-failures", "error-threshold"),
        "a bad row never stops a run; --strict refuses an input with malformed rows, --on-outage fail fails rows",
    ),
    **dict.fromkeys(
        ("wait", "no-wait", "wait-for-recovery"),
        "a run waits for the end of an outage; --on-outage defer or --max-outage DURATION stops waiting",
    ),
    **dict.fromkeys(
        ("max-time", "max-duration", "time-limit", "max-runtime"),
        "--max-outage DURATION bounds waiting, --timeout one attempt, -n the rows; with --via batch: --deadline 6h",
    ),
    **dict.fromkeys(
        ("log", "log-file", "logfile", "log-dir"), "progress goes to standard error: --progress plain 2> run.log"
    ),
    **dict.fromkeys(
        ("batch", "batch-api", "batch-mode"),
        "use --via batch: the provider's batch API, at its price (--tier flex may cost as little, live)",
    ),
    **dict.fromkeys(
        ("shards", "num-shards", "processes", "num-processes", "rank", "world-size"),
        "one process sends up to 100,000 requests at a time (-c); several machines take a part each: --shard I/N",
    ),
    **dict.fromkeys(
        ("metrics", "prometheus", "prometheus-port"), "use --metrics-port PORT: metrics for Prometheus, at /metrics"
    ),
    **dict.fromkeys(
        ("opentelemetry", "otlp", "trace", "traces", "tracing", "otlp-endpoint", "otel-endpoint"),
        "use --otel, and say where to with OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    **dict.fromkeys(
        ("on-finish", "webhook", "on-end", "hook", "email", "slack"), "use --notify 'notify-send \"$NOTIFY_TEXT\"'"
    ),
    **dict.fromkeys(("validate-output", "validate", "response-model", "output-schema"), "use --schema FILE"),
    **dict.fromkeys(("flex", "service-tier"), "use --tier flex, or --tier flex,standard"),
    **dict.fromkeys(("ui", "web", "web-ui", "gui"), "use --dashboard PORT, or llmbatch view FOLDER for all runs there"),
    **dict.fromkeys(("no-cache", "skip-cache"), "nothing is cached unless --cache PATH is given"),
    "html": "use --report night.html, or llmbatch report OUTPUT after the run",
    "resume-from": _RESUME,
    "version": "use llmbatch --version",
    "stream": "answers are read whole: a result line cannot hold a stream",
}

_COMMANDS: dict[str, str] = {
    **dict.fromkeys(
        ("continue", "restart"), "run the same llmbatch run command again: it resumes, and sends no row twice"
    ),
    **dict.fromkeys(
        ("retry", "rerun", "retry-failed"),
        "run the same command again with --retry-failed: llmbatch run INPUT … --retry-failed",
    ),
    **dict.fromkeys(("results", "view", "show"), "use llmbatch export OUTPUT -o results.csv"),
    **dict.fromkeys(("validate", "estimate", "dry-run", "cost", "lint"), "use llmbatch check INPUT"),
    **dict.fromkeys(("errors", "failures", "fails"), "use llmbatch failed OUTPUT"),
    **dict.fromkeys(("progress", "watch", "list", "info"), "use llmbatch status OUTPUT"),
    **dict.fromkeys(("html", "plot", "charts"), "use llmbatch report OUTPUT"),
    **dict.fromkeys(("stop", "cancel", "abort", "quit"), "use llmbatch drain OUTPUT, or Ctrl-C in the run's terminal"),
    **dict.fromkeys(("unpause", "go-on"), "use llmbatch resume OUTPUT"),
    **dict.fromkeys(("change", "config", "tune", "concurrency"), "use llmbatch set concurrency=80 OUTPUT"),
    **dict.fromkeys(("serve", "drill", "scenarios", "simulate"), "it is a command of sim: llmbatch sim --help"),
    **dict.fromkeys(("send", "start", "submit", "batch", "exec"), "use llmbatch run INPUT -m PROVIDER/MODEL"),
    "version": "use llmbatch --version",
    "help": "use llmbatch --help, or llmbatch run --help",
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
}


def find_intent(name: str) -> str:
    """Return the hint for *name*, an option or a setting; empty if there is none."""
    word = name.strip("-").replace("_", "-").lower()
    if word in _PARAMETERS:
        return _PARAMETER.format(_PARAMETERS[word])
    return _INTENTS.get(word, "") or _find_run_together(word)


def _find_run_together(word: str) -> str:
    """The same for a *word* without its dashes: ``maxtokens``, ``numworkers``."""
    if len(word) < _LEAST_RUN_TOGETHER or "-" in word:
        return ""
    for names in (_PARAMETERS, _INTENTS):
        name = next((name for name in names if "-" in name and name.replace("-", "") == word), None)
        if name is not None:
            return find_intent(name)
    return ""


def find_command(word: str) -> str:
    """What is meant by *word*, typed as a command that there is not; empty where that is not known."""
    return _COMMANDS.get(word.replace("_", "-").lower(), "")
