"""Draw docs/terminal.svg from a real run: what the terminal shows in an outage, and when the run is over.

    python docs/draw_terminal.py [SVG]

Runs ``llmbatch run examples/outage.jsonl`` in tmux (which it needs) for about half a minute, captures the pane twice,
and has rich export both captures as one picture.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS, ROWS = 96, 24
COMMAND = "llmbatch run examples/outage.jsonl"


def main() -> int:
    """Run, capture, write the picture to the path given (or docs/terminal.svg)."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    with tempfile.TemporaryDirectory() as folder:
        during, after = captures(Path(folder))
    console = Console(width=COLUMNS, record=True, file=Path("/dev/null").open("w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "dim"), (COMMAND, "bold")))
    console.print(Text.from_ansi(during))
    console.print(Text("\n… a quarter of a minute later:\n", style="dim"))
    console.print(Text.from_ansi(after))
    drawing = console.export_svg(title="llmbatch", unique_id="terminal")
    # rich names a font on another host; without it the reader's own monospace font is used.
    picture.write_text(re.sub(r"\s*@font-face {.*?}", "", drawing, flags=re.DOTALL))
    return 0


def captures(folder: Path) -> tuple[str, str]:
    """The pane while the circuit is open, and after the run, with colors, without blank lines at the end."""
    (folder / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "outage.jsonl", folder / "examples")
    socket = str(folder / "tmux")
    run = [sys.executable, "-m", *shlex.split(COMMAND)]
    shell = f"cd {folder} && PYTHONPATH={shlex.quote(str(ROOT))} {shlex.join(run)}; echo over; sleep 60"
    tmux(socket, "new-session", "-d", "-s", "run", "-x", str(COLUMNS), "-y", str(ROWS), shell)
    try:
        during = capture_once(socket, "○ open")
        over = capture_once(socket, "\nover")
    finally:
        tmux(socket, "kill-server")
    return during, over.rpartition("over")[0].rstrip()


def capture_once(socket: str, text: str, seconds: float = 120.0) -> str:
    """The pane, three seconds after *text* has appeared in it. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if text in tmux(socket, "capture-pane", "-p", "-t", "run"):
            time.sleep(3.0)
            return tmux(socket, "capture-pane", "-e", "-p", "-t", "run").rstrip()
        time.sleep(0.1)
    raise TimeoutError(f"{text!r} did not appear within {seconds:.0f} s")


def tmux(socket: str, *arguments: str) -> str:
    """Output of one tmux command, on a server of this script's own."""
    return subprocess.run(  # noqa: S603 - its own arguments
        ["tmux", "-f", "/dev/null", "-S", socket, *arguments],  # noqa: S607 - whichever tmux is installed
        check=True,
        capture_output=True,
        text=True,
    ).stdout


if __name__ == "__main__":
    raise SystemExit(main())
