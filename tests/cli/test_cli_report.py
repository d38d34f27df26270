"""``llmbatch report`` and ``run --report``: one page about a run, whatever became of it; no file is lost to it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_parts import Run, Silence, TwoLines

from llmbatch.core.rows import Result, encode_line
from llmbatch.report.html.page import PAGE_START

POLICY = "default-src 'none'; script-src 'sha256-"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two good rows, and one whose id, code and message are markup."""
    bad = '<img src=x onerror="alert(1)">\x1b[2J'
    rows = [Result(n, f"{n:016x}", "success", f'"r{n}"', text="fine", model="p/m", attempts=1) for n in (1, 2)]
    rows.append(Result(3, f"{3:016x}", "failed", json.dumps(bad), error_code=bad, error_message=bad))
    path = tmp_path / "prompts.results.jsonl"
    path.write_bytes(b"".join(map(encode_line, rows)))
    return path


def heading(page: Path) -> str:
    """The verdict that the page begins with."""
    text = page.read_text()
    assert text.startswith(PAGE_START)
    assert POLICY in text
    markup = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.S)
    assert not re.search(r'<script|<img|<link|\b(src|href|on\w+|style)="|url\(|@import', markup)
    found = re.search("<h1>(.*)</h1>", text)
    assert found is not None
    return found[1]


def test_the_page_is_made_from_the_output_alone(llmbatch_here: Run, output: Path) -> None:
    """Its path is printed; it is its owner's alone, as the output; a second report replaces it."""
    page = output.with_name("prompts.results.report.html")

    for _ in range(2):
        done = llmbatch_here("report", output.name)

        assert (done.returncode, done.stdout, done.stderr) == (0, f"{page.name}\n", "")
        assert (
            heading(page) == "3 rows: 2 answered, 1 failed; whether rows are left is not known from the output alone."
        )
    assert "There is no history beside the output" in page.read_text()
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;\\x1b[2J" in page.read_text()
    if sys.platform != "win32":
        assert page.stat().st_mode & 0o077 == 0


@pytest.mark.slow  # starts processes
def test_the_page_can_go_to_another_file_or_to_standard_output(
    llmbatch_process: Run, output: Path, tmp_path: Path
) -> None:
    """``-o FILE`` and ``-o -``; the input may be named in place of the output."""
    (tmp_path / "prompts.jsonl").write_text('"one"\n"two"\n"three"\n')

    assert llmbatch_process("report", "prompts.jsonl", "-o", "monday.html").stdout == "monday.html\n"
    printed = llmbatch_process("report", output.name, "-o", "-")

    assert printed.stdout.startswith(PAGE_START)
    assert printed.stdout.endswith("</html>\n")
    assert heading(tmp_path / "monday.html")
    assert not output.with_name("prompts.results.report.html").exists()


def test_an_empty_output_has_a_page(llmbatch_here: Run, tmp_path: Path) -> None:
    """A run that has just begun has no line yet."""
    (tmp_path / "o.jsonl").touch()

    assert llmbatch_here("report", "o.jsonl").returncode == 0
    assert heading(tmp_path / "o.report.html").startswith("no row has been answered yet")


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize(
    "history",
    [
        b"\x00\xff{]\n" * 50,
        b'{"kind":"run","began":"2026-11-27T02:00:00Z","input":"other.jsonl"}\n'
        b'{"kind":"bucket","start":1795744800,"width":1,"success":5}\n',
        b'{"kind":"bucket","start":1795744800,"width":1,"success":5000}\n',
        b'{"kind":"bucket","start":1795744800,"width":1,"success":' + b"9" * 4000 + b"}\n",
        b'{"kind":"journal","runs":1,"outages":[{"from":"0001-01-01T00:00:00Z","route":"<b>","message":"m","to":null}]}\n',
    ],
)
def test_a_foreign_or_broken_history_breaks_no_page(
    llmbatch: Run, tmp_path: Path, prompts: Path, history: bytes
) -> None:
    """What cannot be about this output is left out."""
    assert llmbatch("run", prompts.name, "-m", "sim/steady", "-q").returncode == 0
    (tmp_path / "prompts.results.events.jsonl").write_bytes(history)

    done = llmbatch("report", "prompts.results.jsonl")

    assert (done.returncode, done.stderr) == (0, "")
    assert heading(tmp_path / "prompts.results.report.html").startswith("3 rows: 3 answered")
    assert "cannot be drawn" in (tmp_path / "prompts.results.report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("report", "prompts.results.jsonl", "-o", "notes.html"), "notes.html: exists already and is not a report"),
        (("report", "prompts.results.jsonl", "-o", "prompts.results.jsonl", "--overwrite"), "is the output of the run"),
        (("report", "prompts.results.jsonl", "-o", "link.html", "--overwrite"), "is the output of the run"),
        (("report", "prompts.results.jsonl", "-o", ".", "--overwrite"), "is a directory"),
        (("report", "prompts.results.jsonl", "-o", "gone/x.html"), "there is no folder gone"),
        (("report", "prompts.results.jsonl", "-o", "prompts.results.events.jsonl"), "is a file of the run"),
        (("report", "notes.html"), "notes.html: is not an output of llmbatch"),
        (("report", "gone.jsonl"), "there is no such file"),
    ],
)
def test_no_file_is_lost_to_a_report(
    llmbatch_here: Run, output: Path, tmp_path: Path, two_lines: TwoLines, arguments: tuple[str, ...], words: str
) -> None:
    """Only a report is replaced, or with --overwrite a file that is none of the run's."""
    (tmp_path / "notes.html").write_text("<p>mine")
    (tmp_path / "link.html").symlink_to(output.name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    done = llmbatch_here(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in two_lines(done.stderr)[0]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_another_file_is_replaced_only_if_that_is_asked_for(llmbatch_here: Run, output: Path, tmp_path: Path) -> None:
    """``--overwrite``."""
    (tmp_path / "notes.html").write_text("<p>mine")

    assert llmbatch_here("report", output.name, "-o", "notes.html", "--overwrite").returncode == 0
    assert heading(tmp_path / "notes.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--report", "notes.html"), "notes.html: exists already and is not a report"),
        (("--report", "prompts.jsonl"), "prompts.jsonl: is the input of the run"),
        (("--report", "prompts.results.jsonl"), "prompts.results.jsonl: is the output of the run"),
        (("--report", "./prompts.results.jsonl"), "is the output of the run"),
        (("--report", "gone/night.html"), "there is no folder gone"),
        (("--report", "-"), "--report needs a file"),
        (("--report", "night.html", "-o", "-"), "--report needs an output file"),
    ],
)
def test_a_wrong_report_stops_a_run_before_anything_is_sent(
    llmbatch_here: Run,
    prompts: Path,
    tmp_path: Path,
    silence: Silence,
    two_lines: TwoLines,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    """A night is not paid for without the page that was asked for."""
    (tmp_path / "notes.html").write_text("<p>mine")

    done = llmbatch_here("run", prompts.name, "-m", "m", "--base-url", silence.url, *arguments, OPENAI_API_KEY="k")

    assert done.returncode == 2
    assert words in two_lines(done.stderr)[0]
    assert not silence.was_broken()
    assert (tmp_path / "notes.html").read_text() == "<p>mine"


@pytest.mark.slow  # starts processes
def test_a_run_writes_its_page_when_it_ends(llmbatch: Run, prompts: Path, tmp_path: Path) -> None:
    """With the command and its time axis, and without passwords; a later run replaces the page."""
    command = ("run", prompts.name, "-m", "sim/steady", "--report", "night.html", "--progress", "none")

    for _ in range(2):
        done = llmbatch(*command)

        assert done.returncode == 0, done.stderr
        assert "report written to night.html" in done.stderr
    text = (tmp_path / "night.html").read_text()
    assert heading(tmp_path / "night.html").startswith("3 rows: 3 answered")
    assert "<b>Answered</b>" in text
    assert "llmbatch run prompts.jsonl -m sim/steady" in text
    assert "2 runs" in text


@pytest.mark.slow  # starts processes
def test_a_run_that_fails_writes_its_page_too(llmbatch: Run, prompts: Path, tmp_path: Path) -> None:
    """Here a key is refused: exit code 3, and no line."""
    done = llmbatch("run", prompts.name, "-m", "sim/bad-key", "--report", "night.html", "--progress", "none")

    assert done.returncode == 3, done.stderr
    assert heading(tmp_path / "night.html").startswith("3 rows: 0 answered, 3 not done yet; the run has stopped (")
    assert "the same command goes on" in heading(tmp_path / "night.html")


def serve(environment: dict[str, str], *arguments: str) -> tuple[subprocess.Popen[str], str]:
    """A simulated provider of its own, and its URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "llmbatch", "sim", "serve", "--port", "0", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    return server, server.stdout.readline().strip()


def wait_for(condition: Callable[[], bool]) -> None:
    """Look until it holds, half a minute at most."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow  # a server that is down for some seconds, and a run that waits for it
def test_the_page_tells_of_an_outage_while_it_lasts_after_a_kill_and_in_the_end(
    llmbatch: Run, tmp_path: Path, environment: dict[str, str]
) -> None:
    """In words, in the table, and as a shaded part of the charts."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id":"r{n}","prompt":"row {n}"}}\n' for n in range(300)))
    server, url = serve(environment, "--scenario", "outage", "--speed", "1")
    words = ("run", "rows.jsonl", "-m", "m", "--base-url", url, "--report", "night.html", "--progress", "none")
    environment |= {"OPENAI_API_KEY": "k"}
    page = tmp_path / "rows.results.report.html"
    try:
        run = subprocess.Popen(
            [sys.executable, "-m", "llmbatch", *words], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL
        )
        status = tmp_path / ".rows.results.jsonl.status.json"
        wait_for(lambda: status.exists() and bool(json.loads(status.read_text())["history"]["outages"]))
        assert llmbatch("report", "rows.jsonl").returncode == 0
        assert "has been down since" in heading(page)
        assert "the run goes on" in heading(page)
        run.kill()
        run.wait(timeout=30)

        assert llmbatch("report", "rows.jsonl").returncode == 0
        assert "was down from" in heading(page)
        assert "the run was killed and left no last word" in heading(page)

        done = llmbatch(*words, OPENAI_API_KEY="k")
    finally:
        server.kill()
        server.communicate(timeout=30)

    assert done.returncode == 0, done.stderr
    text = (tmp_path / "night.html").read_text()
    assert heading(tmp_path / "night.html").startswith("300 rows: 300 answered")
    assert "was down from" in heading(tmp_path / "night.html")
    assert "nothing was lost" in heading(tmp_path / "night.html")
    assert text.count('class="outage"') >= 5, "in each chart"
    assert 'class="open"' in text
    assert (tmp_path / "night.html").stat().st_size < 300_000


@pytest.mark.slow  # starts processes
def test_the_command_of_the_page_runs(llmbatch: Run, tmp_path: Path) -> None:
    """``docs/report.md`` begins with it."""
    root = Path(__file__).parents[2]
    words = shlex.split((root / "docs" / "report.md").read_text(encoding="utf-8").split("```sh\n")[1].split("\n")[0])
    (tmp_path / "examples").mkdir()
    rows = (root / words[2]).read_bytes().splitlines(keepends=True)
    (tmp_path / words[2]).write_bytes(b"".join(rows[:20]))  # those before the outage

    done = llmbatch(*words[1:])

    assert (words[0], done.returncode) == ("llmbatch", 0), done.stderr
    assert " answered" in heading(tmp_path / "night.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("openai.jsonl", b'{"id":"b_1","custom_id":"r1","response":{"status_code":200,"body":{}},"error":null}\n'),
        ("anthropic.jsonl", b'{"custom_id":"r1","result":{"type":"succeeded","message":{"id":"m"}}}\n'),
        ("eval.json", b'{\n  "results": {"version": 3}\n}\n'),
        ("table.csv", b"id,text\n1,hello\n"),
        ("binary.jsonl", bytes(range(256)) * 9),
        ("events.jsonl", b'{"kind":"run","began":"2026-11-27T02:00:00Z"}\n'),
        ("prompts.jsonl", b'{"prompt":"one"}\n'),
    ],
)
@pytest.mark.parametrize("command", ["report", "status", "failed"])
def test_what_another_tool_wrote_is_refused_and_left_alone(
    llmbatch_here: Run, tmp_path: Path, two_lines: TwoLines, command: str, name: str, content: bytes
) -> None:
    """No page is written, nothing beside it, and the file is as it was."""
    (tmp_path / name).write_bytes(content)

    done = llmbatch_here(command, name)

    message, hint = two_lines(done.stderr)
    assert (done.returncode, done.stdout) == (2, "")
    assert message.startswith(f"{name}: is not an output of llmbatch")
    assert hint
    assert (tmp_path / name).read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {name, "home"}
