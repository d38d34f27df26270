"""Draw docs/terminal.svg and docs/report.png from one real run through an outage: its terminal, and its page.

    python docs/draw_run.py [FOLDER]

Needs tmux, Chromium and playwright for Python, and takes four minutes: a run of 5,000 rows, of which 10 are malformed,
against ``llmbatch sim serve`` on loopback, which is down for 75 s. The pane of tmux is captured twice, and rich exports
both captures as one picture.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 96, 30
COMMAND = "llmbatch run reviews.jsonl -m openai/gpt-5-mini --report page.html"
OUTAGE = """
description = "fine for 40 s, down for 75 s, then fine"
[[phase]]
seconds = 40
[[phase]]
seconds = 75
behavior = "down"
statuses = [503, 500]
"""


def main() -> int:
    """Run, capture, and write the pictures to the folder given (or docs)."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        during, after = captures(folder)
        draw_page(folder / "page.html", target / "report.png")
    console = Console(width=COLUMNS, record=True, file=Path("/dev/null").open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "dim"), (COMMAND, "bold")))
    console.print(Text.from_ansi(during))
    console.print(Text("\n… three minutes later:\n", style="dim"))
    console.print(Text.from_ansi(after))
    drawing = console.export_svg(title="llmbatch", unique_id="terminal")
    # rich names a font on another host; without it the reader's own monospace font is used.
    (target / "terminal.svg").write_text(re.sub(r"\s*@font-face {.*?}", "", drawing, flags=re.DOTALL))
    return 0


def captures(folder: Path) -> tuple[str, str]:
    """The pane while the circuit is open, and after the run, with colors, without blank lines at the end."""
    rows = [{"id": f"r{n}", "prompt": f"Is review {n} positive?"} for n in range(1, 5001)]
    lines = [json.dumps(row if row["id"][-3:] not in ("117", "842") else {"id": row["id"]}) for row in rows]
    (folder / "reviews.jsonl").write_text("".join(line + "\n" for line in lines))
    socket = str(folder / "tmux")
    words = [sys.executable, "-m", *shlex.split(COMMAND)]
    with serving(folder) as url:
        variables = f"PYTHONPATH={shlex.quote(str(ROOT))} OPENAI_BASE_URL={url} OPENAI_API_KEY=any TZ=UTC"
        shell = f"cd {folder} && {variables} {shlex.join(words)}; echo over; sleep 60"
        tmux(socket, "new-session", "-d", "-s", "run", "-x", str(COLUMNS), "-y", str(ROWS), shell)
        try:
            during = capture_once(socket, "○ open", 20.0)
            over = capture_once(socket, "\nover", 0.5)
        finally:
            tmux(socket, "kill-server")
    return during, over.rpartition("over")[0].rstrip()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a simulated provider, whose time begins with the first request."""
    (folder / "outage.toml").write_text(OUTAGE)
    words = ["-m", "llmbatch", "sim", "serve", "--scenario", str(folder / "outage.toml"), "--latency", "0.8"]
    process = subprocess.Popen(  # noqa: S603 - this package
        [sys.executable, *words, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None  # noqa: S101 - it is piped
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def capture_once(socket: str, text: str, later_s: float, most_s: float = 600.0) -> str:
    """The pane, *later_s* seconds after *text* has appeared in it. Raises TimeoutError."""
    deadline = time.monotonic() + most_s
    while time.monotonic() < deadline:
        if text in tmux(socket, "capture-pane", "-p", "-t", "run"):
            time.sleep(later_s)
            return tmux(socket, "capture-pane", "-e", "-p", "-t", "run").rstrip()
        time.sleep(0.1)
    raise TimeoutError(f"{text!r} did not appear within {most_s:.0f} s")


def tmux(socket: str, *arguments: str) -> str:
    """Output of one tmux command, on a server of this script's own."""
    return subprocess.run(  # noqa: S603 - its own arguments
        ["tmux", "-f", "/dev/null", "-S", socket, *arguments],  # noqa: S607 - whichever tmux is installed
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def draw_page(page: Path, picture: Path) -> None:
    """What the first screen of *page* shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1180, "height": 1036}, color_scheme="light")
        tab.goto(page.as_uri())
        tab.wait_for_selector(".u-over")
        tab.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    raise SystemExit(main())
