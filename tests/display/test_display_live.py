"""Which display is made where, and the live one on a real pseudo-terminal."""

from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmbatch.core.events import CallEnded, CallSent, CircuitChanged, Notice, OutageStarted, RowFinished, RunStarted
from llmbatch.display import Display, ProgressKind, make_display
from llmbatch.display.json_lines import JsonDisplay
from llmbatch.display.plain import PlainDisplay
from llmbatch.display.quiet import NoDisplay, QuietDisplay
from llmbatch.display.rich_display import RichDisplay

HOSTILE = "\x1b[2J\x1b]0;owned\x07[bold]\nforged"


class Terminal(io.StringIO):
    """A stream that says it is a UTF-8 terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def stuck() -> Iterator[io.StringIO]:
    """A terminal that hangs in a write, as after Ctrl-S, until the test is over."""
    released = threading.Event()

    class Stuck(Terminal):
        def write(self, text: str) -> int:
            released.wait(60)
            return len(text)

    yield Stuck()
    released.set()


def play(display: Display, *, rows: int = 20, until: float = 0.0) -> None:
    start = time.monotonic()
    display.observe(RunStarted(start, "in.jsonl", "out.jsonl", 4, 0, 0, 100))
    for row in range(1, rows + 1):
        at = time.monotonic()
        display.observe(CallSent(at, "openai/x", row, 1, False))
        display.observe(CallEnded(at, "openai/x", row, False, "success", "", "", 200, 0.1, 1, 1))
        display.observe(RowFinished(at, "openai/x", row, "success", "", 1))
    now = time.monotonic()
    display.observe(CircuitChanged(now, "openai/x", "closed", "open", "down", 3.0))
    display.observe(OutageStarted(now, "openai/x", now, "down", 3.0))
    time.sleep(until)


# -- which display ---------------------------------------------------------------------------------------------------


def test_a_terminal_gets_the_live_display_and_a_pipe_plain_lines() -> None:
    """``auto`` decides by the stream."""
    assert isinstance(make_display("auto", stream=Terminal()), RichDisplay)
    assert isinstance(make_display("auto", stream=io.StringIO()), PlainDisplay)


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("CI", "true")])
def test_a_dumb_terminal_and_a_ci_job_get_plain_lines(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Where lines cannot be redrawn, or are kept, nothing is redrawn."""
    monkeypatch.setenv(name, value)

    assert isinstance(make_display("auto", stream=Terminal()), PlainDisplay)


def test_a_terminal_without_utf8_gets_plain_lines() -> None:
    """Bars and marks need UTF-8, so ``rich`` without it is ``plain``."""

    class Latin(Terminal):
        encoding = "latin-1"

    assert isinstance(make_display("auto", stream=Latin()), PlainDisplay)
    assert isinstance(make_display("rich", stream=Latin()), PlainDisplay)


@pytest.mark.parametrize(
    ("kind", "expected"), [("rich", RichDisplay), ("plain", PlainDisplay), ("json", JsonDisplay), ("none", NoDisplay)]
)
def test_a_kind_that_is_asked_for_is_given(kind: ProgressKind, expected: type[object]) -> None:
    """An explicit kind wins over what the stream is."""
    assert isinstance(make_display(kind, stream=Terminal()), expected)


def test_quiet_wins_over_every_kind() -> None:
    """``-q`` leaves errors alone on the screen."""
    assert isinstance(make_display("rich", quiet=True, stream=Terminal()), QuietDisplay)


def test_a_process_without_standard_error_runs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon has no standard error: nothing is shown."""
    monkeypatch.setattr(sys, "stderr", None)

    with make_display("auto") as display:
        play(display)


def test_making_a_plain_display_loads_no_rich() -> None:
    """Only the live display pays for rich."""
    code = (
        "import io, sys; from llmbatch.display import make_display; "
        "make_display('plain', stream=io.StringIO()); print('rich' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"


# -- the live display ------------------------------------------------------------------------------------------------


def test_the_live_display_draws_tells_changes_above_and_tidies_up() -> None:
    """The picture is drawn by its own thread; on leaving it is erased, the cursor is back, and told lines stay."""
    stream = Terminal()

    with make_display("auto", stream=stream) as display:
        play(display, until=0.25)
    text = stream.getvalue()

    assert "20/100  20 %" in text
    assert "outage of openai/x: down; its rows wait, probe in 3.0 s" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.rindex("\x1b[2K") > text.rindex("openai/x")
    assert not any(thread.name == "llmbatch-display" for thread in threading.enumerate())


def test_lines_of_the_last_moment_are_still_printed() -> None:
    """What was observed after the last redraw is printed on leaving."""
    stream = Terminal()

    with make_display("auto", stream=stream) as display:
        display.observe(Notice(0.0, "error", "the last word", "do this"))

    assert "error: the last word; hint: do this" in stream.getvalue()


def test_no_color_takes_the_colours_and_leaves_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``NO_COLOR`` no colour code is sent, and the state is still told by mark and word."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()

    with make_display("rich", stream=stream) as display:
        play(display, until=0.25)

    assert "○ open" in stream.getvalue()
    assert not any(f"\x1b[{code}m" in stream.getvalue() for code in (31, 32, 33, 36, "1;31"))


def test_log_lines_go_above_the_picture_and_handlers_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that holds the bare stream is moved while the picture stands, and restored after."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("test_display_live")
    logger.addHandler(handler)

    try:
        with make_display("rich") as display:
            play(display, until=0.25)
            moved = handler.stream
            logger.warning("from elsewhere")
    finally:
        logger.removeHandler(handler)

    assert moved is not stream
    assert handler.stream is stream
    assert sys.stderr is stream
    assert "from elsewhere\n" in stream.getvalue()


def test_a_terminal_that_hangs_does_not_hold_up_the_run(stuck: io.StringIO) -> None:
    """While the drawing thread hangs in a write, events are taken as before."""
    display = RichDisplay(stuck, verbose=1)
    display._ticker.start()
    time.sleep(0.22)

    started = time.perf_counter()
    play(display, rows=500)

    assert time.perf_counter() - started < 20  # the write hangs for 60 s
    display._ticker.stop(patience_s=0.0)


@pytest.mark.parametrize("error", [BrokenPipeError(32, "gone"), OSError(5, "hung up"), ValueError("closed file")])
def test_a_terminal_that_goes_away_changes_nothing(error: Exception) -> None:
    """After a hang-up the display goes on drawing to nobody, raises nothing and keeps nothing back."""

    class Gone(Terminal):
        def write(self, text: str) -> int:
            raise error

    with make_display("rich", stream=Gone()) as display:
        assert isinstance(display, RichDisplay)
        play(display, until=0.22)
        display.observe(Notice(0.0, "error", "x"))
        display._redraw()

    assert display._console._buffer == []


def test_an_error_inside_leaves_through_the_display() -> None:
    """What the run raises comes out, with the cursor given back."""
    stream = Terminal()

    with pytest.raises(KeyboardInterrupt), make_display("rich", stream=stream):
        raise KeyboardInterrupt

    assert "\x1b[?25h" in stream.getvalue()


def test_a_flood_of_verbose_lines_is_bounded() -> None:
    """With ``-v`` in an outage of thousands of calls the newest lines are shown and the others counted."""
    stream = Terminal()
    display = RichDisplay(stream, verbose=1)

    for row in range(3000):
        display.observe(CallEnded(1.0, "openai/x", row + 1, False, "failure", "timeout", HOSTILE, None, 0.1, 0, 0))
    display._redraw()

    text = stream.getvalue()
    assert "(2,500 lines left out)" in text
    assert "row 3000: timeout" in text
    assert "\x1b[2J" not in text
    assert "\nforged" not in text


SCRIPT = """
import sys, time
from llmbatch.core.events import *
from llmbatch.display import make_display
with make_display("auto") as display:
    for event in (
        RunStarted(time.monotonic(), "in.jsonl", "out.jsonl", 4, 0, 0, 9),
        CircuitChanged(time.monotonic(), "openai/x", "closed", "open", "down", 3.0),
    ):
        display.observe(event)
    time.sleep(0.3)
    print("a line of data")
    print("a line of trouble", file=sys.stderr)
print("after")
"""


@pytest.mark.slow  # starts an interpreter
def test_on_a_real_terminal_data_stays_on_standard_output(tmp_path: Path) -> None:
    """With standard error a terminal and standard output a file, the file holds the data only."""
    master, slave = pty.openpty()
    data = tmp_path / "data"

    with data.open("wb") as out:
        done = subprocess.run([sys.executable, "-c", SCRIPT], stdout=out, stderr=slave, timeout=120, check=False)
    os.close(slave)
    shown = b""
    while block := _read(master):
        shown += block
    os.close(master)

    assert done.returncode == 0
    assert data.read_text() == "a line of data\nafter\n"
    assert b"a line of trouble" in shown
    assert "○ open".encode() in shown


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # EIO: the other end is closed
        return b""
