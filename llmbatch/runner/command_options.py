"""The table of options, third part: all that ``run`` and ``check`` take besides how rows are sent and what is shown.

See :mod:`llmbatch.runner.options`. Importing this module loads nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from llmbatch.core.calls import Endpoint
from llmbatch.core.headers import Headers
from llmbatch.core.shards import Shard
from llmbatch.inputs.format_names import FORMATS, InputFormat
from llmbatch.runner.display_options import DisplayOptions
from llmbatch.runner.option import option, options_of
from llmbatch.runner.quantities import Size, Whole
from llmbatch.runner.value_types import Choice, HeaderLines, Names, ShardNumber, Switch, Text

__all__ = [
    "OPTIONS",
    "CommandOptions",
    "Fsync",
    "Lock",
]

Fsync = Literal["group", "off"]
Lock = Literal["on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOptions(DisplayOptions):
    """All options of ``run`` and ``check``: :class:`RunOptions`, display, output, model and headers. Immutable."""

    output: str | None = option(
        None,
        Text("PATH"),
        *("-o", "--output", "--output-file"),
        help="Append result lines to this file; '-' writes them to standard output, without resume.",
        unset="prompts.results.jsonl next to prompts.jsonl",
        group="Input and output",
        local="folder",
    )
    input_format: InputFormat | None = option(
        None,
        Choice(FORMATS),
        "--input-format",
        help="What the input is: JSON lines, a JSON array, CSV, TSV, Parquet, Arrow, or text with a prompt per line.",
        unset="by the file's ending, else jsonl",
        group="Input and output",
    )
    id_column: str | None = option(
        None,
        Text("NAME"),
        "--id-column",
        help="The column or field that names the rows.",
        unset="id, custom_id, key or row_id",
        group="Input and output",
    )
    keep: tuple[str, ...] | None = option(
        None,
        Names("NAME"),
        "--keep",
        help="Echo these columns or fields of a row in its result's metadata: --keep label,source.",
        unset="none",
        group="Input and output",
    )
    limit: int | None = option(
        None, Whole(1, None, "rows"), "-n", "--limit", help="Only the first N rows.", group="Input and output"
    )
    workers: int = option(
        1,
        Whole(1, 1000, "processes"),
        "--workers",
        help="Send the rows from N processes on this machine, into one output; -c, --rpm, --tpm, --rpd and --max-cost "
        "mean all of them together. For jobs that keep a core busy.",
        group="Pace",
        sends=True,
    )
    ray: str | None = option(
        None,
        Text("ADDRESS|local"),
        "--ray",
        help="Send the rows from the N --workers on a Ray cluster (HOST:PORT, or auto), or on one that is started here "
        "for the run (local). All its nodes must see the input and the output. Keys are those of the nodes.",
        unset="none",
        group="Pace",
        sends=True,
        local="never",
    )
    shard: Shard | None = option(
        None,
        ShardNumber(),
        "--shard",
        help="Send only part I of N of the rows (row r is in part (r - 1) mod N + 1), any/N: each part that no other "
        "process has, one after another. With a folder as output (-o results/) each part has a file there, and "
        "finished rows of all parts count.",
        unset="all rows",
        group="Input and output",
        settable=False,
    )
    retry_failed: bool = option(
        False,
        Switch(),
        "--retry-failed",
        help="Resend failed rows; their old lines are removed.",
        group="Input and output",
        settable=False,
    )
    overwrite: bool = option(
        False,
        Switch(),
        "--overwrite",
        help="Start over; the lines of an earlier run are dropped.",
        group="Input and output",
        settable=False,
    )
    force: bool = option(
        False,
        Switch(),
        "--force",
        help="Continue an output that another model, system prompt, template, endpoint or parameters have answered.",
        group="Input and output",
        settable=False,
        sends=True,
    )
    fsync: Fsync = option(
        "group",
        Choice(get_args(Fsync)),
        "--fsync",
        help="How lines survive a power cut: group syncs them once per second, off leaves that to the system.",
        group="Input and output",
        sends=True,
    )
    lock: Lock = option(
        "on",
        Choice(get_args(Lock)),
        "--lock",
        help="Whether the output is locked against a second run; off only where the file system has no locks.",
        group="Input and output",
        settable=False,
        sends=True,
    )
    strict: bool = option(
        False,
        Switch(),
        "--strict",
        help="Refuse the whole input if any row is malformed.",
        group="Input and output",
    )
    dry_run: bool = option(
        False,
        Switch(),
        "--dry-run",
        help="Validate and estimate, send nothing; the same as llmbatch check.",
        group="Input and output",
        settable=False,
    )
    model: str | None = option(
        None,
        Text("PROVIDER/MODEL"),
        *("-m", "--model"),
        help="Which model, such as openai/gpt-5-mini or sim/steady, or a pool: pool/NAME. A row's own model wins.",
        group="Model",
    )
    fallback: tuple[str, ...] | None = option(
        None,
        Names("PROVIDER/MODEL"),
        "--fallback",
        help="Where rows go while the route of their model is down, or its account, key or model is refused. May be "
        "repeated: the first that takes a row gets it.",
        unset="none",
        group="Model",
    )
    cache: str | None = option(
        None,
        Text("PATH"),
        "--cache",
        help="Answer rows from this SQLite file where it has the answer to an equal request, and keep good answers in "
        "it. Equal rows of one run cost one call.",
        unset="none",
        group="Model",
        local="folder",
    )
    prices: str | None = option(
        None,
        Text("FILE"),
        "--prices",
        help="Prices of models, before those of the list that comes with llmbatch: a TOML file, in US$ per million "
        "tokens.",
        unset="the list",
        group="Model",
        local="folder",
    )
    allow_files: str | None = option(
        None,
        Text("DIR"),
        "--allow-files",
        help="Read the local pictures, audio and documents that rows name with file: URLs, from below this folder "
        "only, and send them.",
        unset="such rows are refused",
        group="Input and output",
        local="subfolder",
    )
    server_files: bool = option(
        False,
        Switch(),
        "--server-files",
        help="Send file: URLs as they are: the server reads the files itself, as vLLM can.",
        group="Input and output",
        local="never",
    )
    base_url: str | None = option(
        None,
        Text("URL"),
        "--base-url",
        help="Any OpenAI-compatible server.",
        unset="the provider's",
        group="Model",
        local="loopback",
    )
    proxy: str | None = option(
        None,
        Text("URL"),
        "--proxy",
        help="Send every request through this HTTP proxy. If its URL has a password, set LLMBATCH_PROXY instead.",
        unset="none",
        group="Model",
        sends=True,
        local="loopback",
    )
    api_key_env: str | None = option(
        None,
        Text("NAME"),
        "--api-key-env",
        help="Name of the environment variable that holds the key; never the key itself.",
        unset="the provider's, such as OPENAI_API_KEY",
        group="Model",
        local="key",
    )
    env_file: str | None = option(
        None,
        Text("PATH"),
        "--env-file",
        help="Read variables such as keys from this file of NAME=VALUE lines; variables that are set already win.",
        group="Model",
        local="never",
    )
    headers: Headers | None = option(
        None,
        HeaderLines(),
        "--header",
        help="Send this HTTP header too, to --base-url or the provider of --model. May be repeated. 'NAME=$VARIABLE' "
        "takes the value from the environment, the only way for keys.",
        unset="none",
        group="Model",
        local="literal",
    )
    endpoint: Endpoint | None = option(
        None,
        Choice(get_args(Endpoint)),
        "--endpoint",
        help="Wire format. With raw, the url of a batch row may be any path below /v1/.",
        unset="from the row",
        group="Model",
    )
    template: str | None = option(
        None,
        Text("TEXT|@FILE"),
        *("-t", "--template"),
        help="Make the prompt from the row's fields, in Jinja's syntax: -t 'Sentiment of: {{ text }}'.",
        unset="the row's own prompt",
        group="Model",
        local="never",
    )
    prompt_column: str | None = option(
        None,
        Text("NAME"),
        "--prompt-column",
        help="The column or field that holds the prompt.",
        unset="prompt, or messages",
        group="Model",
    )
    system_column: str | None = option(
        None,
        Text("NAME"),
        "--system-column",
        help="The column or field that holds the system prompt; where it is empty, that of --system.",
        unset="system",
        group="Model",
    )
    system: str | None = option(
        None,
        Text("TEXT", may_be_empty=True),
        *("-s", "--system"),
        help="System prompt for rows that have none.",
        group="Model",
    )
    schema: str | None = option(
        None,
        Text("FILE|MODULE:CLASS"),
        "--schema",
        help="Ask for answers that fit this JSON Schema, or pydantic model, and check them; good lines have parsed.",
        unset="none",
        group="Model",
        local="file",
    )
    schema_lenient: bool = option(
        False,
        Switch(),
        "--schema-lenient",
        help="With --schema, find JSON inside code fences or prose too.",
        group="Model",
    )
    repair: int = option(
        1,
        Whole(0, 100, "times"),
        "--repair",
        help="With --schema, ask again up to N times for an answer that does not fit, telling the model why.",
        group="Model",
    )
    max_answer_memory: int = option(
        512_000_000,
        Size(1_000_000),
        "--max-answer-memory",
        help="Memory that all answers in flight share; beyond it the largest of them fails.",
        group="Pace",
        sends=True,
    )


OPTIONS = options_of(CommandOptions)
"""Every option by name, in the order of the help."""
