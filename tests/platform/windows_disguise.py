"""Makes this process look like one on Windows, as far as Linux can, before llmbatch is loaded.

``python tests/platform/windows_disguise.py ARGUMENTS`` runs ``llmbatch ARGUMENTS`` so disguised:

- ``sys.platform`` is ``win32``, and ``fcntl``, ``resource``, ``pwd``, ``grp``, ``termios``, ``tty`` and ``uvloop``
  cannot be imported; what the standard library and others have loaded of them before stays theirs;
- names that Windows lacks are gone from :mod:`os`, :mod:`signal`, :mod:`select` and :mod:`socket`;
- the event loop knows neither signals nor pipes, as the proactor of Windows;
- a file that this process has open can be neither renamed nor replaced nor removed;
- ``LockFileEx`` is played over ``flock``: real locks between real processes, at a place that is checked.

What it cannot show: Windows' own errors, its file systems, its consoles.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import os
import pkgutil
import selectors
import signal
import socket
import stat
import sys
import sysconfig
import types
from collections.abc import Callable
from ctypes import wintypes
from typing import Any, NoReturn

__all__ = ["disguise"]

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "uvloop")
OS_NAMES = (
    *("pread", "preadv", "pwrite", "pwritev", "fdatasync", "fchmod", "fchown", "chown", "lchown", "memfd_create"),
    *("sched_getaffinity", "get_blocking", "set_blocking", "getuid", "geteuid", "getgid", "getegid", "major", "minor"),
    *("mkfifo", "fork", "killpg", "getpgid", "getpgrp", "setsid", "statvfs", "fstatvfs", "uname", "sysconf", "openpty"),
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NONBLOCK", "O_ACCMODE", "O_NOFOLLOW", "O_SYNC", "O_DSYNC"),
)
SIGNAL_NAMES = ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGCONT", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGUSR2")
SELECT_NAMES = ("poll", "epoll", "POLLIN", "POLLOUT", "PIPE_BUF")
SOCKET_NAMES = ("SO_REUSEPORT", "TCP_KEEPIDLE", "EAI_NODATA", "EAI_SYSTEM")
LOADED_BEFORE = (
    *("asyncio.unix_events", "subprocess", "tempfile", "shutil", "multiprocessing", "concurrent.futures.thread"),
    *(
        "ssl",
        "getpass",
        "platform",
        "webbrowser",
        "ctypes.wintypes",
        "anyio",
        "anyio._backends._asyncio",
        "aiohttp.web",
    ),
    *(
        "httptools",
        "rich.console",
        "rich.live",
        "rich.progress",
        "typer",
        "zstandard",
        "aiolimiter",
        "uuid",
        "zoneinfo",
    ),
)
"""What asks for the system while it is imported, and has to find the real one."""

O_BINARY = 1 << 28
O_TEMPORARY = 1 << 29
_LOCKED_AT = 1 << 62


class WindowsLoop(asyncio.SelectorEventLoop):
    """An event loop without what the proactor lacks. The interpreter's signal handlers wake it up."""

    def __init__(self) -> None:
        super().__init__(selectors.SelectSelector())
        signal.set_wakeup_fd(self._csock.fileno())  # type: ignore[attr-defined]  # as the proactor does

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        super().close()

    def _refuse(self, *_: object) -> NoReturn:
        raise NotImplementedError

    add_reader = add_writer = _refuse  # type: ignore[assignment]
    add_signal_handler = remove_signal_handler = _refuse  # type: ignore[assignment]


def disguise() -> None:
    """Do it; for good."""
    for name in LOADED_BEFORE:
        importlib.import_module(name)
    sysconfig.get_config_vars()
    import rich

    for module in pkgutil.iter_modules(rich.__path__, "rich."):  # which it loads one by one, while it draws
        if not module.name.startswith(("rich._win", "rich.__main__")) and "windows" not in module.name:
            importlib.import_module(module.name)
    import fcntl

    _play_kernel32(fcntl)
    _refuse_open_files()
    for owner, names in ((os, OS_NAMES), (signal, SIGNAL_NAMES), (socket, SOCKET_NAMES)):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    import select

    for name in SELECT_NAMES:
        if hasattr(select, name):
            delattr(select, name)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    asyncio.SelectorEventLoop = asyncio.ProactorEventLoop = WindowsLoop  # type: ignore[assignment, attr-defined]
    asyncio.set_event_loop_policy(_Policy())
    sys.platform = "win32"


class _Policy(asyncio.DefaultEventLoopPolicy):
    _loop_factory = WindowsLoop


def _play_kernel32(fcntl: types.ModuleType) -> None:
    real_flock, exclusive, shared = fcntl.flock, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB
    unlock = fcntl.LOCK_UN
    last_error = 0

    class Function:
        argtypes: tuple[Any, ...] = ()
        restype: Any = None

        def __init__(self, function: Callable[..., int]) -> None:
            self._function = function

        def __call__(self, *arguments: Any) -> int:
            # As ctypes converts them.
            assert len(arguments) == len(self.argtypes)
            for kind, value in zip(self.argtypes[:-1], arguments[:-1], strict=True):
                assert kind(value).value == (value or (None if kind is ctypes.c_void_p else 0)), (kind, value)
            overlapped = arguments[-1]._obj
            assert isinstance(ctypes.pointer(overlapped), self.argtypes[-1])
            assert ctypes.sizeof(overlapped) == 32
            assert overlapped.Offset + (overlapped.OffsetHigh << 32) == _LOCKED_AT
            return self._function(*arguments)

    def call_flock(handle: int, how: int) -> int:
        nonlocal last_error
        try:
            real_flock(handle, how)
        except BlockingIOError:
            last_error = 33
            return 0
        return 1

    def lock_file_ex(handle: int, flags: int, reserved: int, low: int, high: int, _: object) -> int:
        assert (flags & 1, reserved, low, high) == (1, 0, 1, 0)
        return call_flock(handle, exclusive if flags & 2 else shared)

    def unlock_file_ex(handle: int, reserved: int, low: int, high: int, _: object) -> int:
        assert (reserved, low, high) == (0, 1, 0)
        return call_flock(handle, unlock)

    def win_dll(name: str, *, use_last_error: bool) -> object:
        assert (name, use_last_error) == ("kernel32", True)
        return types.SimpleNamespace(LockFileEx=Function(lock_file_ex), UnlockFileEx=Function(unlock_file_ex))

    wintypes.DWORD = ctypes.c_uint32  # type: ignore[assignment]
    ctypes.WinDLL = win_dll  # type: ignore[attr-defined]
    ctypes.get_last_error = lambda: last_error  # type: ignore[attr-defined]
    ctypes.WinError = lambda number: OSError(number, "a Windows error")  # type: ignore[attr-defined]
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.get_osfhandle = lambda fd: fd  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = msvcrt


def _refuse_open_files() -> None:
    real_open, real_unlink, real_replace = os.open, os.unlink, os.replace
    os.O_BINARY, os.O_TEMPORARY = O_BINARY, O_TEMPORARY  # type: ignore[attr-defined]

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = real_open(path, flags & ~(O_BINARY | O_TEMPORARY), mode, dir_fd=dir_fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            raise PermissionError(13, "Permission denied", path)
        if flags & O_TEMPORARY:
            real_unlink(path)
        elif not flags & O_BINARY and sys._getframe(1).f_globals.get("__name__", "").startswith("llmbatch"):
            os.close(fd)
            raise AssertionError(f"{path} was opened in text mode")
        return fd

    def refuse(path: Any) -> None:
        try:
            about = os.stat(path)  # noqa: PTH116 - as given
        except OSError:
            return
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            try:
                found = os.fstat(int(name))
            except OSError:
                continue
            if (found.st_dev, found.st_ino) == (about.st_dev, about.st_ino):
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))

    def unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if dir_fd is None:
            refuse(path)
        real_unlink(path, dir_fd=dir_fd)

    def replace(old: Any, new: Any, **options: Any) -> None:
        refuse(old)
        refuse(new)
        real_replace(old, new, **options)

    os.open, os.unlink, os.remove, os.replace, os.rename = open_, unlink, unlink, replace, replace  # type: ignore[assignment]


if __name__ == "__main__":
    disguise()
    from llmbatch.cli import main

    sys.argv[0] = "llmbatch"
    sys.exit(main())
