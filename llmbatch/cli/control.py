"""``llmbatch pause``, ``resume``, ``set`` and ``drain``: hand a command to the run that writes an output."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from llmbatch.cli.terminal import print_note
from llmbatch.control.client import ask
from llmbatch.control.protocol import Answer, Command
from llmbatch.control.unix_socket import HAS_SOCKETS
from llmbatch.core.errors import OutputError, UsageError
from llmbatch.display.phrases import plural
from llmbatch.display.status_file import read_sidecar
from llmbatch.display.status_read import open_for_reading
from llmbatch.outputs.deferred import control_path
from llmbatch.outputs.find import find_output
from llmbatch.outputs.parts import list_parts, output_of_parts
from llmbatch.runner.control import CHANGEABLE, parse_setting

__all__ = ["change", "send"]

_SETTING = re.compile(r"([A-Za-z][A-Za-z_-]*)=(.*)", re.DOTALL)


def change(arguments: Sequence[str]) -> int:
    """``NAME=VALUE… OUTPUT``: change options of the run; gives 0.

    Raises:
        UsageError: there is no such option, a value is out of range, the run refuses it, or no run is going on.
    """
    settings, output = _split(arguments)
    for name, text in settings.items():
        parse_setting(name, text)
    return send("set", output, settings)


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], str]:
    """The settings, and the one argument that is none, or the last one."""
    names = ", ".join(name.replace("_", "-") for name in CHANGEABLE)
    others = [argument for argument in arguments if _SETTING.fullmatch(argument) is None]
    output = others[-1] if others else arguments[-1]
    rest = list(arguments)
    rest.reverse()
    rest.remove(output)
    found = [_SETTING.fullmatch(argument) for argument in reversed(rest)]
    settings = {match[1]: match[2] for match in found if match is not None}
    if not settings or len(settings) != len(rest):
        wrong = next((argument for argument in others if argument != output), "")
        message = f"{wrong[:80]!r} is not NAME=VALUE" if wrong else "nothing is to be changed"
        if not others and len(arguments) == 1:
            raise UsageError("no output is named", hint=f"llmbatch set {output} prompts.results.jsonl")
        raise UsageError(message, hint=f"llmbatch set concurrency=80 {output}; these can be set: {names}")
    return settings, output


def send(name: str, path: str, values: Mapping[str, str] | None = None) -> int:
    """Give the command *name* to the run on the output that *path* names, and print what it says; gives 0.

    Raises:
        UsageError: the run refuses the command, or there is no run.
    """
    if not HAS_SOCKETS:
        raise UsageError(
            f"llmbatch {name} needs Unix sockets, which this system does not have",
            hint="Ctrl-C in the run's terminal stops it, and the same command resumes, with other flags if need be",
        )
    output = find_output(path)
    if output.is_dir():
        output = output_of_parts(output) or output
    command = Command(name, dict(values or {}))
    if output.is_dir():
        _send_to_parts(output, command)
        return 0
    answer = _ask(output, command)
    if answer is None:
        raise _no_run(output, name)
    if not answer.ok:
        raise UsageError(answer.message, hint=answer.hint)
    print_note(answer.message)
    return 0


def _send_to_parts(folder: Path, command: Command) -> None:
    """Give *command* to the run of each part in *folder*, and print what each says.

    Raises:
        UsageError: a run refuses the command, or none is going on here.
    """
    answers = {part.path: _ask(part.path, command) for part in list_parts(folder)}
    said = {path: answer for path, answer in answers.items() if answer is not None}
    for path, answer in said.items():
        if answer.ok:
            print_note(f"{path.name}: {answer.message}")
    refused = next(((path, answer) for path, answer in said.items() if not answer.ok), None)
    if refused is not None:
        raise UsageError(f"{refused[0].name}: {refused[1].message}", hint=refused[1].hint)
    silent = [path.name for path, answer in answers.items() if answer is None and _is_running(path)]
    if silent:
        others = plural(len(silent) - 1, "part")
        which = silent[0] if len(silent) == 1 else f"{silent[0]} and {others} more"
        message = f"{folder}: the runs of {which} take no commands here"
        raise OutputError(message, hint="give the command on the machines where they run, or stop them (kill -TERM)")
    if not said:
        hint = "to begin or resume shards, run their commands; llmbatch status counts what they have done"
        raise OutputError(f"{folder}: no run of a part is going on here", hint=hint)


def _is_running(output: Path) -> bool:
    with open_for_reading(output) as results:
        return results.is_running


def _ask(output: Path, command: Command) -> Answer | None:
    for place in dict.fromkeys((output, output.resolve())):  # the run may have been given another name of it
        try:
            answer = ask(control_path(place), command)
        except PermissionError:
            hint = f"only the user who has started it may control it: ls -l {control_path(place)}"
            raise OutputError(f"{output}: its run is another user's", hint=hint) from None
        except TimeoutError:
            hint = "its process may be stopped (Ctrl-Z): fg, or kill -CONT, lets it go on"
            raise OutputError(f"{output}: its run does not answer", hint=hint) from None
        if answer is not None:
            return answer
    return None


def _no_run(output: Path, name: str) -> OutputError:
    """Why nobody answers: no run is going on, or one that listens to no commands."""
    is_running, sidecar = _is_running(output), read_sidecar(output)
    if is_running:
        pid = sidecar.get("pid")
        stop = f"; kill -TERM {pid} stops it" if isinstance(pid, int) and os.name == "posix" else ""
        return OutputError(
            f"{output}: its run takes no commands",
            hint=f"programs control their runs themselves, and some file systems have no sockets{stop}",
        )
    command = sidecar.get("command")
    again = f": {command}" if isinstance(command, str) and command else ""
    if name == "resume":
        return OutputError(f"{output}: no run is paused here", hint=f"to go on, run the same command again{again}")
    return OutputError(f"{output}: no run is going on here", hint=f"to begin or resume one, run its command{again}")
