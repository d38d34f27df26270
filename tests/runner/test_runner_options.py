"""The table of options: how values are read and refused, and that everything that takes options takes all of them."""

from __future__ import annotations

import inspect
import typing
from decimal import Decimal

import pytest

from llmbatch.core.errors import UsageError
from llmbatch.display import ProgressKind
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.display_options import Progress
from llmbatch.runner.options import RUN_OPTIONS, RunOptions
from llmbatch.runs.batch_runner import BatchRunner, Options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("0.5", 0.5),
        ("1e3", 1000.0),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        ("1.5H", 5400.0),
        ("2d", 172800.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        (" 120s ", 120.0),
    ],
)
def test_durations_take_units(text: str, seconds: float) -> None:
    """A bare number is seconds; d, h, m, s and ms follow each other from large to small."""
    assert OPTIONS["timeout"].parse(text, "--timeout") == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1", "-2m", "nan", "inf", "1e999", "m", "2 minutes", "1h30", "30m1h", "2mm", "1:30", "2x"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """With the source, the value and the form."""
    with pytest.raises(UsageError, match=r"^--timeout is .*, must be a duration above 0, such as 90 \(seconds\), 2m"):
        OPTIONS["timeout"].parse(text, "--timeout")


@pytest.mark.parametrize(
    ("text", "number"),
    [("40", 40), ("60k", 60_000), ("60K", 60_000), ("1.5k", 1500), ("0.1k", 100), ("1_000", 1000), ("+7", 7)],
)
def test_counts_take_units(text: str, number: int) -> None:
    """Exact whole numbers, of requests and of rates."""
    whole = OPTIONS["concurrency"].parse(text, "-c")

    assert (whole, type(whole)) == (number, int)
    assert OPTIONS["tpm"].parse(text, "--tpm") == number


@pytest.mark.parametrize(("text", "ceiling"), [("auto", 1000), ("AUTO", 1000), ("auto:200", 200), ("auto:1.5k", 1500)])
def test_a_concurrency_may_be_found_automatically(text: str, ceiling: int) -> None:
    """On the command line, in a file, and as a keyword; as a number it is its ceiling."""
    row = OPTIONS["concurrency"]

    for options in (
        RunOptions(concurrency=row.parse(text, "-c")),  # type: ignore[arg-type]
        RunOptions(concurrency=row.from_toml(text, "llmbatch.toml")),  # type: ignore[arg-type]
        RunOptions(concurrency=text),  # type: ignore[arg-type]  # BatchRunner takes it
        BatchRunner("m", concurrency=text).options,
    ):
        assert (options.concurrency, options.adapts) == (ceiling, True)
        assert row.parse(row.value.show(options.concurrency), "-c") == ceiling
    assert not RunOptions(concurrency=ceiling).adapts


def test_large_counts_and_fractions_of_rates() -> None:
    """M and G are millions and billions, in a duration m is minutes; a rate may be a fraction."""
    assert OPTIONS["tpm"].parse("2m", "--tpm") == 2_000_000
    assert OPTIONS["tpm"].parse("1.5G", "--tpm") == 1_500_000_000
    assert OPTIONS["rpm"].parse("0.5", "--rpm") == 0.5
    assert OPTIONS["seed"].parse("12345678901234567890", "--seed") == 12345678901234567890


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "2.5", "auto:", "auto:0", "automatic", "1e3", "60 thousand", "k", "1.0001k", "101k", "9" * 99],
)
def test_what_is_no_count_is_refused(text: str) -> None:
    """A part of a request, a number out of range, a word."""
    with pytest.raises(UsageError, match=r"^-c is .*, must be a whole number from 1 to 100,000, auto, or auto:N\n"):
        OPTIONS["concurrency"].parse(text, "-c")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("concurrency", 0, "concurrency is 0, must be a whole number from 1 to 100,000"),
        ("concurrency", True, "concurrency is true, must be"),
        ("concurrency", "40", "concurrency is '40', must be"),
        ("max_attempts", 1.5, "max_attempts is 1.5, must be a whole number from 1 to 1,000,000"),
        ("rpm", 0, "rpm is 0, must be a number of requests per minute above 0"),
        ("timeout", None, "timeout is none, must be a duration above 0"),
        ("recovery_timeout", float("inf"), "recovery_timeout is inf, must be"),
        ("on_outage", "defr", "on_outage is 'defr', must be one of wait, defer, fail"),
        ("circuit_key", "a..b", "circuit_key is 'a..b', must be the dotted name of a field"),
        ("seed", -1, "seed is -1, must be a whole number, 0 or more"),
    ],
)
def test_the_library_refuses_with_name_value_and_range(name: str, value: object, said: str) -> None:
    """The same words as the command's, under the keyword's name."""
    with pytest.raises(UsageError) as caught:
        RunOptions(**{name: value})  # type: ignore[arg-type]

    assert caught.value.message.startswith(said)


def test_an_alias_as_a_keyword_is_answered_with_the_keyword() -> None:
    """What people type at the command line is no keyword, and the hint says which is."""
    with pytest.raises(UsageError, match="unknown option 'max_concurrency'") as caught:
        BatchRunner("m", max_concurrency=3)  # type: ignore[call-overload]

    assert caught.value.hint == "did you mean concurrency?"


def test_no_two_options_share_a_flag_a_key_or_a_variable() -> None:
    """Aliases included; and every option has a long flag that is its name, in the singular where it is repeated."""
    for names in (
        [flag for option in OPTIONS.values() for flag in option.flags],
        [key for option in OPTIONS.values() for key in option.keys],
        [variable for option in OPTIONS.values() for variable in option.variables],
    ):
        assert len(names) == len(set(names))
    for option in OPTIONS.values():
        name = option.name.removesuffix("s") if option.value.repeats else option.name
        assert option.flag == "--" + name.replace("_", "-")


def test_every_default_is_in_its_range_and_is_read_as_it_is_shown() -> None:
    """What help says of a default can be typed."""
    for option in OPTIONS.values():
        option.check(option.default)
        if option.default is not None:
            assert option.parse(option.value.show(option.default), option.flag) == option.default


def test_the_typed_keywords_are_those_of_the_table() -> None:
    """For type checkers: the keywords of ``BatchRunner`` have the names and types of ``RunOptions``."""
    hints = typing.get_type_hints(RunOptions)
    assert typing.get_type_hints(Options) == hints | {
        "concurrency": int | str,  # "auto" becomes a number
        "max_cost": Decimal | float | None,
    }
    assert typing.get_args(ProgressKind) == typing.get_args(Progress)


@pytest.mark.parametrize("function", [BatchRunner.__init__, BatchRunner.run, BatchRunner.run_sync])
def test_other_keywords_of_the_library_have_the_defaults_of_the_table(function: object) -> None:
    """A keyword that is an option has its default."""
    shared = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()  # type: ignore[arg-type]
        if name in OPTIONS
    }

    assert shared == {name: OPTIONS[name].default for name in shared}


def test_every_option_but_those_of_the_terminal_is_a_keyword_of_the_library() -> None:
    """What sends rows is offered to Python; files of variables and displays are the command's."""
    keywords = set(RUN_OPTIONS)
    for function in (BatchRunner.__init__, BatchRunner.run):
        keywords |= inspect.signature(function).parameters.keys()

    assert OPTIONS.keys() - keywords == {
        "dashboard",
        "dashboard_show_text",
        "dry_run",
        "env_file",
        "json",
        "metrics_port",
        "notify",
        "otel",
        "progress",
        "quiet",
        "ray",
        "report",
        "workers",
    }
