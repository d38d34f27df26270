"""The longer texts of ``--help``."""

from __future__ import annotations

__all__ = [
    "CHECK_HELP",
    "CONVERT_HELP",
    "DRILL_HELP",
    "EXPORT_EPILOG",
    "MERGE_EPILOG",
    "REPORT_EPILOG",
    "ROOT_EPILOG",
    "RUN_HELP",
    "SET_EPILOG",
    "SHORT_HELP",
    "VIEW_EPILOG",
]

RUN_HELP = """Send every row of INPUT and append one result line per row.

INPUT is a file of JSON lines (also .gz and .zst), or '-' for standard input. Running the same command again resumes.
An outage parks rows and waits; it never fails them."""

CHECK_HELP = """Read and validate every row, estimate tokens and time, send nothing.

Takes the flags of llmbatch run. Exit code 1 if rows are malformed, 2 with --strict or if no row could be sent."""

CONVERT_HELP = """Turn rows into batch files, and the results of batches back into the lines of a run. Sends nothing.

For those who submit batches by hand or run vllm run-batch. Give --from the same flags (-m, -s, -t, …) as --to."""

DRILL_HELP = """Run a policy through an outage in virtual time: the real runner, hours in seconds.

The policy is what llmbatch run would use: flags, LLMBATCH_* variables, llmbatch.toml. Exit code 1 where a row fails."""

ROOT_EPILOG = """Examples:
  llmbatch run prompts.jsonl -m openai/gpt-5-mini
  llmbatch check prompts.jsonl                      what would be sent
  llmbatch status prompts.results.jsonl             how far a run is, and how it went
  llmbatch failed prompts.results.jsonl             which rows failed, and why
  llmbatch report prompts.results.jsonl             the run as one page, with charts
  llmbatch view .                                   the pages of all runs of a folder, live
  llmbatch export prompts.results.jsonl -o out.csv  results as a table, in input order"""

REPORT_EPILOG = """Examples:
  llmbatch report prompts.results.jsonl
  llmbatch report prompts.results.jsonl -o monday.html"""

SET_EPILOG = """Examples:
  llmbatch set concurrency=80 prompts.results.jsonl
  llmbatch set rpm=600 tpm=none prompts.results.jsonl
  llmbatch set max-cost=25 prompts.results.jsonl      a run that has --max-cost

A higher concurrency is reached by a ramp; with -c auto it is the new ceiling."""

VIEW_EPILOG = """Examples:
  llmbatch view .
  llmbatch view prompts.results.jsonl --port 0"""

EXPORT_EPILOG = """Examples:
  llmbatch export prompts.results.jsonl -o results.csv
  llmbatch export prompts.results.jsonl --join -o labelled.parquet
  llmbatch export prompts.results.jsonl --fields id,text -o - | head

Fields: id, status, text, error.code, error.message, model, attempts, latency_s,
  cost_usd, usage.input_tokens, metadata.NAME, response.body.NAME, …"""

MERGE_EPILOG = """Examples:
  llmbatch merge results/ -o results.jsonl
  llmbatch merge monday.jsonl tuesday.jsonl -o all.jsonl --input prompts.jsonl

Exit code 75 if rows are missing: their shards have not ended."""

SHORT_HELP = {
    "run": "Send every row and append one result line per row.",
    "check": "Validate every row and estimate the cost; send nothing.",
    "status": "Show how a run went, and what is left.",
    "report": "Write one page about a run, with charts.",
    "view": "Serve the pages of all runs of a folder, live.",
    "export": "Write results as a table or batch file, in input order.",
    "merge": "Join the parts of shards into one output.",
    "pause": "Pause a run in progress.",
    "resume": "Let a paused run go on.",
    "set": "Change the limits of a run in progress.",
    "drain": "Stop a run in progress as Ctrl-C does.",
    "convert": "Convert rows to batch files, and results back.",
    "trust": "Let a folder's llmbatch.toml set everything.",
    "sim": "Simulate a provider and its outages.",
    "sim serve": "Serve the simulated provider on loopback.",
    "sim drill": "Play an outage against your settings, in virtual time.",
    "batch": "List, cancel or adopt the batches of a run.",
    "batch cancel": "Cancel open batches; the next run sends the rest again.",
    "batch adopt": "Collect batches as those of a run.",
    "batch ignore": "Do not wait for batches that only look like the run's.",
}
"""What the list of commands says of each: one line of a terminal of 80 columns."""
