"""``llmbatch view``: the pages of outputs and folders of outputs, in the browsers of this machine."""

from __future__ import annotations

import asyncio
import shlex
import signal
from pathlib import Path

from llmbatch import __version__
from llmbatch.cli.signals import handle_signals
from llmbatch.cli.terminal import print_note, print_out
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.outputs.find import find_output

__all__ = ["view"]


def view(names: list[str], *, port: int) -> int:
    """Serve the pages of *names*, outputs, inputs or folders, until a signal comes; gives the exit code, 0.

    The URL is the one line on standard output, for scripts.

    Raises:
        UsageError: there is no such output or folder, or the port is taken.
    """
    asyncio.run(_serve([_found(name) for name in names or ["."]], port))
    return 0


def _found(name: str) -> Path:
    """The output or folder that *name* means.

    Raises:
        UsageError: there is none.
    """
    path = Path(name)
    if path.is_dir():
        return path
    output = find_output(name)
    if not output.is_file():
        hint = f"name an output or a folder; llmbatch view {shlex.quote(str(path.parent))} shows all outputs there"
        raise OutputError(f"{name}: there is no such output or folder", hint=hint)
    return output


async def _serve(paths: list[Path], port: int) -> None:
    from llmbatch.dashboard.catalog import Catalog
    from llmbatch.dashboard.listen import listen
    from llmbatch.dashboard.server import PageServer
    from llmbatch.dashboard.site import Site

    if not 0 <= port <= 65_535:
        raise UsageError(f"--port is {port}, must be 0 to 65535", hint="0 takes any port that is free")
    ended = asyncio.Event()
    with handle_signals((signal.SIGINT, signal.SIGTERM), lambda _: ended.set()):
        listener = listen(port)
        server = PageServer(listener, Site(Catalog(paths), version=__version__).find)
        await server.start()
        try:
            print_out(f"http://127.0.0.1:{listener.getsockname()[1]}/")
            print_note("Ctrl-C ends it; runs go on")
            await ended.wait()
        finally:
            await server.aclose()
