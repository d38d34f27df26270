"""Everything that can be wrong with a command: exit code 2, one error, one hint, nothing sent, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_parts import Run, Silence, TwoLines

from llmbatch import BatchRunner
from llmbatch.core.errors import UsageError
from llmbatch.runner.command_options import OPTIONS
from llmbatch.runner.intents import find_intent

OPENAI = ("-m", "openai/gpt-5-mini")


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ((), "no input is given", "standard input"),
        (("prompts.jsonl", "-i", "prompts.jsonl"), "the input is given twice", "once"),
        (
            ("prompts.jsonl", "m.jsonl"),
            "unexpected extra",
            "cat prompts.jsonl m.jsonl | llmbatch run - -o results.jsonl",
        ),
        (("prompts.jsonl", "b.jsonl", "c"), "unexpected extra", "cat prompts.jsonl b.jsonl c | llmbatch run -"),
        (("prompts.jsonl", "--concurency", "3"), "no such option: --concurency", "did you mean --concurrency?"),
        (("prompts.jsonl", "--api-key", "sk-live-1234567"), "no such option: --api-key", "--api-key-env"),
        (("prompts.jsonl", "-c"), "requires an argument", "--help"),
        (("prompts.jsonl", "-c", "0"), "--concurrency is '0', must be a whole number from 1 to 100,000", "--help"),
        (("prompts.jsonl", "-c", "-1"), "--concurrency is '-1', must be a whole number from 1 to 100,000", "--help"),
        (("prompts.jsonl", "-c", "auto:0"), "--concurrency is 'auto:0', must be a whole number", "--help"),
        (("prompts.jsonl", "-j", "2.5"), "--concurrency is '2.5', must be a whole number", "--help"),
        (("prompts.jsonl", "-c", "9" * 5000), "--concurrency is '999", "--help"),
        (
            ("prompts.jsonl", "--rpm", "nan"),
            "--rpm is 'nan', must be a number of requests per minute",
            "--help",
        ),
        (("prompts.jsonl", "--tpm", "inf"), "--tpm is 'inf', must be a number of tokens per minute above 0", "--help"),
        (
            ("prompts.jsonl", "--timeout", "-3"),
            "--timeout is '-3', must be a duration above 0",
            "--help",
        ),
        (("prompts.jsonl", "--timeout", "30m1h"), "--timeout is '30m1h', must be a duration above 0", "--help"),
        (("prompts.jsonl", "-n", "0"), "--limit is '0', must be a whole number, 1 or more", "--help"),
        (("prompts.jsonl", "--on-outage", "defr"), "--on-outage is 'defr', must be one of wait", "did you mean defer?"),
        (("prompts.jsonl", "--progress", "loud"), "--progress is 'loud', must be one of auto", "--help"),
        (("prompts.jsonl", "--endpoint", "chats"), "--endpoint is 'chats', must be one of", "did you mean chat?"),
        (("prompts.jsonl", "-o", ""), "--output is empty", "--help"),
        (("prompts.jsonl", "-P", "temperature"), "--param is 'temperature', must be key=value", "temperature=0.2"),
        (("prompts.jsonl", "-P", "=1"), "--param is '=1', must be key=value", "temperature=0.2"),
        (("prompts.jsonl", "-o", "-", "--json"), "both want standard output", "-o results.jsonl"),
        (("-", "--json"), "both want standard output", "-o results.jsonl"),
        (("prompts.jsonl", "--overwrite", "--retry-failed"), "contradict each other", "--retry-failed keeps"),
        (("prompts.jsonl", "-o", "-", "--overwrite"), "--overwrite needs an output file", "-o results.jsonl"),
        (("prompts.jsonl", "-q", "-v"), "-q and -v contradict", "one of them"),
        (("prompts.jsonl", "--config", "nowhere.toml"), "nowhere.toml: no such file", "TOML"),
        (("prompts.jsonl", "--base-url", "not a url"), "--base-url", "http"),
        (("prompts.jsonl", "--base-url", "http://me:secret-word@127.0.0.1/v1"), "--base-url", "--api-key-env"),
    ],
)
def test_a_wrong_command_is_refused_in_two_lines(
    llmbatch_here: Run,
    two_lines: TwoLines,
    prompts: Path,
    arguments: tuple[str, ...],
    error: str,
    hint: str,
) -> None:
    """Unknown flags, values out of range and contradictions exit with 2, an error and a hint, and leave no output."""
    done = llmbatch_here("run", *OPENAI, *arguments, OPENAI_API_KEY="sk-test-0123456789")

    assert done.returncode == 2
    assert done.stdout == ""
    said_error, said_hint = two_lines(done.stderr)
    assert error in said_error
    assert hint in said_hint
    assert "sk-live" not in done.stderr
    assert "secret-word" not in done.stderr
    assert not (prompts.parent / "prompts.results.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [("nowhere.jsonl", "nowhere.jsonl"), (".", "directory"), ("nowhere/x.jsonl", "nowhere/x.jsonl")],
)
def test_an_input_that_is_no_file_is_refused(
    llmbatch_here: Run, two_lines: TwoLines, silence: Silence, name: str, error: str
) -> None:
    """A missing input or a directory exits with 2 and names it."""
    done = llmbatch_here("run", name, "-m", "any", "--base-url", silence.url, "-o", "out.jsonl")

    assert done.returncode == 2
    assert error in two_lines(done.stderr)[0]
    assert not silence.was_broken()


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root reads everything")
def test_an_unreadable_input_is_refused(
    llmbatch_here: Run, two_lines: TwoLines, silence: Silence, prompts: Path
) -> None:
    """An input without read permission exits with 2 and names it."""
    prompts.chmod(0)

    done = llmbatch_here("run", str(prompts), "-m", "any", "--base-url", silence.url)

    assert done.returncode == 2
    assert "prompts.jsonl" in two_lines(done.stderr)[0]
    assert not silence.was_broken()


def test_a_missing_key_is_named_before_anything_is_sent(llmbatch: Run, two_lines: TwoLines, prompts: Path) -> None:
    """Without the provider's key the run exits with 2, names the variable, and leaves no output behind."""
    done = llmbatch("run", str(prompts), *OPENAI)

    assert done.returncode == 2
    error, hint = two_lines(done.stderr)
    assert "OPENAI_API_KEY is not set" in error
    assert "export OPENAI_API_KEY" in hint
    assert not (prompts.parent / "prompts.results.jsonl").exists()


def test_a_name_that_is_no_provider_is_sent_whole_so_the_key_is_what_is_missing(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path
) -> None:
    """``nosuch/model`` is a model's name; without a base URL it goes to OpenAI, whose key is not set."""
    done = llmbatch_here("run", str(prompts), "-m", "nosuch/model")

    assert done.returncode == 2
    assert "OPENAI_API_KEY is not set" in two_lines(done.stderr)[0]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("--num-workers", "8"), "-c N (--concurrency)"),
        (("--parallel", "8"), "-c N (--concurrency)"),
        (("--batch-size", "8"), "-c N (--concurrency)"),
        (("--resume",), "the same command again resumes"),
        (("--max-tokens", "500"), "-P max_tokens=500"),
        (("--max_tokens", "500"), "-P max_tokens=500"),
        (("--temperature", "0"), "-P temperature=0.2"),
        (("--retries", "5"), "--max-attempts N"),
        (("--max-retries", "5"), "--max-attempts N"),
        (("--model-name", "x"), "-m PROVIDER/MODEL"),
        (("--budget", "5"), "--max-cost USD"),
        (("--api-base", "http://h"), "--base-url URL"),
        (("--token", "sk-live-1234567"), "--api-key-env"),
        (("--output-dir", "results"), "the name of a file"),
        (("-o", "folder"), "such as -o folder/results.jsonl"),
        (("--retry-faild",), "did you mean --retry-failed?"),
        (("--outptu", "x"), "did you mean --output?"),
    ],
)
def test_a_hint_is_for_what_was_meant_not_for_what_is_spelt_alike(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, typed: tuple[str, ...], meant: str
) -> None:
    """The names that other tools have; a misspelt name is still found by its spelling."""
    prompts.with_name("folder").mkdir()

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", *typed)

    assert done.returncode == 2
    assert meant in two_lines(done.stderr)[1]
    assert "sk-live" not in done.stderr
    assert not prompts.with_name("prompts.results.jsonl").exists()


def test_a_setting_of_other_tools_is_answered_by_what_was_meant(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path
) -> None:
    """In a configuration file, and in the library."""
    prompts.with_name("llmbatch.toml").write_text("max_tokens = 500\n")

    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady")

    assert done.returncode == 2
    assert "-P max_tokens=500" in two_lines(done.stderr)[1]
    with pytest.raises(UsageError) as caught:
        BatchRunner("sim/steady", max_retries=3)  # type: ignore[call-overload]
    assert "max-attempts" in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--maxtokens", "-P max_tokens=500"),
        ("--numworkers", "-c N"),
        ("-w", "-c N"),
        ("--prompt-template", "-t TEXT"),
        ("--max-time", "--max-outage DURATION"),
        ("--batch-api", "--via batch"),
        ("--metrics", "--metrics-port PORT"),
        ("--web-ui", "--dashboard PORT"),
        ("--html", "--report night.html"),
        ("--num-shards", "--shard I/N"),
        ("--wait", "--on-outage defer"),
        ("--fail-fast", "--strict"),
        ("--log-file", "2> run.log"),
        ("--flex", "--tier flex"),
        ("--service-tier", "--tier flex"),
    ],
)
def test_an_option_of_other_tools_was_answered_by_one_that_is_only_spelled_alike(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, typed: str, meant: str
) -> None:
    """``--max-time`` is not ``--timeout``."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", typed, "x")

    assert done.returncode == 2
    assert meant in two_lines(done.stderr)[1]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("prompts.jsonl", "llmbatch run prompts.jsonl -m PROVIDER/MODEL"),
        ("my rows.csv", "llmbatch run 'my rows.csv' -m PROVIDER/MODEL"),
        ("restart", "run the same llmbatch run command again"),
        ("retry", "--retry-failed"),
        ("results", "llmbatch export OUTPUT -o results.csv"),
        ("validate", "llmbatch check INPUT"),
        ("serve", "llmbatch sim --help"),
    ],
)
def test_a_command_of_other_tools_is_answered_by_what_was_meant(
    llmbatch_here: Run, two_lines: TwoLines, typed: str, meant: str
) -> None:
    """And a file in place of a command by ``run``."""
    done = llmbatch_here(typed)

    assert done.returncode == 2
    assert meant in two_lines(done.stderr)[1]


@pytest.mark.parametrize("output", [".", "/", "./", "//"])
def test_an_output_without_a_name_was_an_internal_error(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path, output: str
) -> None:
    """Exit code 2: it is a directory."""
    done = llmbatch_here("run", "prompts.jsonl", "-m", "sim/steady", "-o", output)

    assert done.returncode == 2
    assert two_lines(done.stderr)[0] == f"{output}: is a directory"


def test_no_option_that_exists_is_explained_away() -> None:
    """A row of the table of intents goes when its option comes."""
    flags = [flag for option in OPTIONS.values() for flag in option.flags]

    assert not [flag for flag in flags if find_intent(flag)]


@pytest.mark.parametrize(
    ("model", "error", "hint"),
    [
        ("opneai/gpt-5-mini", "'opneai' is not a known provider", "did you mean openai/gpt-5-mini?"),
        ("google/gemini-2.5-pro", "'google' is not a known provider", "did you mean gemini/gemini-2.5-pro?"),
        ("bedrock/claude", "'bedrock' is not a known provider", "--base-url"),
        ("claude-sonnet-5", "names no provider", "did you mean anthropic/claude-sonnet-5?"),
        ("openai", "no model", "for example openai/gpt-5-mini"),
        ("sim/stedy", "there is no scenario 'stedy'", "did you mean sim/steady?"),
    ],
)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_model_of_another_company_is_refused_before_anything_is_sent(
    llmbatch_here: Run,
    two_lines: TwoLines,
    prompts: Path,
    command: str,
    model: str,
    error: str,
    hint: str,
) -> None:
    """With only OpenAI's key at hand: exit code 2, what was meant, and no output."""
    done = llmbatch_here(command, str(prompts), "-m", model, OPENAI_API_KEY="sk-test-0123456789")

    assert done.returncode == 2
    said_error, said_hint = two_lines(done.stderr)
    assert error in said_error
    assert hint in said_hint
    assert "sk-test" not in done.stderr
    assert not (prompts.parent / "prompts.results.jsonl").exists()


def test_a_missing_model_is_named(llmbatch_here: Run, two_lines: TwoLines, prompts: Path, silence: Silence) -> None:
    """Rows without a model and a command without one exit with 2, and the hint says where to name it."""
    done = llmbatch_here("run", str(prompts), "--base-url", silence.url)

    assert done.returncode == 2
    error, hint = two_lines(done.stderr)
    assert "no model" in error
    assert "-m PROVIDER/MODEL" in hint
    assert not silence.was_broken()


def test_a_key_given_as_the_name_of_a_variable_is_not_repeated(
    llmbatch_here: Run, two_lines: TwoLines, prompts: Path
) -> None:
    """``--api-key-env sk-…`` is refused without showing the key."""
    done = llmbatch_here("run", str(prompts), *OPENAI, "--api-key-env", "sk_live_abcdefgh1234")

    assert done.returncode == 2
    error, hint = two_lines(done.stderr)
    assert "--api-key-env is not the name of an environment variable" in error
    assert "never the key itself" in hint
    assert "sk_live" not in done.stderr


def test_text_from_the_command_line_is_escaped(llmbatch_here: Run, two_lines: TwoLines, prompts: Path) -> None:
    """A value with control characters cannot steer the terminal."""
    done = llmbatch_here("run", str(prompts), "-c", "\x1b[2J\x07\u202e1", *OPENAI)

    assert done.returncode == 2
    assert r"\x1b[2J\x07\u202e1" in two_lines(done.stderr)[0]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("rnu", "prompts.jsonl"), "no such command", "did you mean run?"),
        (("--frobnicate",), "no such option: --frobnicate", "--help"),
        (("status",), "missing argument 'OUTPUT|INPUT'", "llmbatch status --help"),
        (("sim", "serve", "--port", "many"), "--port", "llmbatch sim serve --help"),
        (("sim", "serve", "--port", "70000"), "port", ""),
        (("sim", "serve", "--scenario", "sunny", "--port", "0"), "scenario 'sunny' is unknown", "steady"),
        (("sim", "serve", "--host", "0.0.0.0"), "must be a loopback address", "127.0.0.1"),
    ],
)
def test_other_commands_speak_the_same_way(
    llmbatch_here: Run, two_lines: TwoLines, arguments: tuple[str, ...], error: str, hint: str
) -> None:
    """Wrong commands and arguments of every command come out in the same two lines."""
    done = llmbatch_here(*arguments)

    assert done.returncode == 2
    said_error, said_hint = two_lines(done.stderr)
    assert error in said_error
    assert hint in said_hint


CRASH = """
import sys
from llmbatch.cli import main, option_commands
def crash(typed):
    raise RuntimeError("it broke near " + "sk-very-secret-0123456789")
option_commands._run = crash
sys.argv = ["llmbatch", "run", "x"]
sys.exit(main())
"""


@pytest.mark.parametrize("debug", ["", "1"])
def test_an_internal_error_shows_no_key_and_a_traceback_only_on_request(
    tmp_path: Path, environment: dict[str, str], debug: str
) -> None:
    """A fault of ours exits with 70 in two lines; LLMBATCH_DEBUG adds the traceback; keys are masked in both."""
    variables = environment | {"MY_API_KEY": "sk-very-secret-0123456789", "LLMBATCH_DEBUG": debug}

    done = subprocess.run(
        [sys.executable, "-c", CRASH], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )

    assert done.returncode == 70
    assert "error: internal error: RuntimeError: it broke near ***" in done.stderr
    assert "hint: run again with LLMBATCH_DEBUG=1" in done.stderr
    assert "sk-very-secret" not in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("OSError(24, 'Too many open files')", "this machine is out of file handles"),
        ('RuntimeError("can\'t start new thread")', "this machine is out of threads"),
        ("ExceptionGroup('rows', [ValueError(), MemoryError()])", "this machine is out of memory"),
    ],
)
def test_a_machine_that_is_out_of_something_is_no_fault_to_report(
    tmp_path: Path, environment: dict[str, str], two_lines: TwoLines, raised: str, said: str
) -> None:
    """It is told what to raise, and that the same command resumes; the exit code stays 70."""
    program = CRASH.replace('RuntimeError("it broke near " + "sk-very-secret-0123456789")', raised)

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 70
    said_error, said_hint = two_lines(done.stderr)
    assert said_error == said
    assert said_hint.endswith("then run the same command again: no finished row is lost")
    assert "limit" in said_hint


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path, environment: dict[str, str]) -> None:
    """``llmbatch sim scenarios | true`` ends without a traceback."""
    read, write = os.pipe()
    os.close(read)

    done = subprocess.run(
        [sys.executable, "-m", "llmbatch", "sim", "scenarios"],
        cwd=tmp_path,
        env=environment,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_told(
    tmp_path: Path, environment: dict[str, str], two_lines: TwoLines
) -> None:
    """Output that cannot be written exits with 74 in two lines."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "llmbatch", "sim", "scenarios"],
            cwd=tmp_path,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert done.returncode == 74
    assert "standard output could not be written" in two_lines(done.stderr)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "told"),
    [("opneai/x", "'opneai' is not a known provider"), ("openai", "no model"), ("sim/stedy", "there is no scenario")],
)
def test_a_model_that_no_row_can_have_was_an_unreadable_input_if_rows_came_from_standard_input(
    llmbatch: Run, two_lines: TwoLines, tmp_path: Path, model: str, told: str
) -> None:
    """An error and a hint, before anything is read or written. Slow: a process each."""
    done = llmbatch("run", "-", "-o", "out.jsonl", "-m", model, stdin='{"prompt":"a"}\n')

    assert done.returncode == 2
    assert told in two_lines(done.stderr)[0]
    assert not list(tmp_path.glob("*out.jsonl*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "told", "why"),
    [
        (("-m", "openai/gpt-5-mini"), "no API key: OPENAI_API_KEY is not set", "rows cannot be sent"),
        ((), "no model", "rows cannot be sent"),
    ],
)
def test_a_missing_key_was_an_unreadable_input_if_rows_came_from_standard_input(
    llmbatch: Run, tmp_path: Path, model: tuple[str, ...], told: str, why: str
) -> None:
    """What is wrong is said, and a file that nothing was written to does not stay. Slow: a process each."""
    done = llmbatch("run", "-", "-o", "out.jsonl", *model, stdin='{"prompt":"a"}\n')

    assert done.returncode == 2
    assert f"error: {told}" in done.stderr
    assert f"stopping: the {why}" in done.stderr
    assert not list(tmp_path.glob("*out.jsonl*"))
