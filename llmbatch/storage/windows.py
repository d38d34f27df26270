"""Locks of files on Windows: ``LockFileEx`` on one byte far behind the data.

Imported on Windows alone, by :mod:`llmbatch.storage.filesystem`. A lock there keeps others from reading what it covers,
so it covers nothing that is ever written. The system releases it with the descriptor or the process.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    import ctypes
    import errno
    import msvcrt
    import os
    from ctypes import wintypes
    from typing import Final

    __all__ = ["lock", "unlock"]

    _AT: Final = 1 << 62
    """The byte that is locked."""

    _FAIL_IMMEDIATELY: Final = 1
    _EXCLUSIVE: Final = 2
    _LOCK_VIOLATION: Final = 33
    _IO_PENDING: Final = 997

    class _Overlapped(ctypes.Structure):
        _fields_ = (
            ("Internal", ctypes.c_void_p),
            ("InternalHigh", ctypes.c_void_p),
            ("Offset", wintypes.DWORD),
            ("OffsetHigh", wintypes.DWORD),
            ("hEvent", wintypes.HANDLE),
        )

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    _overlapped = ctypes.POINTER(_Overlapped)
    _kernel32.LockFileEx.argtypes = (wintypes.HANDLE, *(wintypes.DWORD,) * 4, _overlapped)
    _kernel32.LockFileEx.restype = wintypes.BOOL
    _kernel32.UnlockFileEx.argtypes = (wintypes.HANDLE, *(wintypes.DWORD,) * 3, _overlapped)
    _kernel32.UnlockFileEx.restype = wintypes.BOOL

    def lock(fd: int, *, exclusive: bool) -> None:
        """Lock the open file without waiting.

        Raises:
            BlockingIOError: another descriptor holds it.
            OSError: the file system has no locks.
        """
        flags = _FAIL_IMMEDIATELY | (_EXCLUSIVE if exclusive else 0)
        if not _kernel32.LockFileEx(msvcrt.get_osfhandle(fd), flags, 0, 1, 0, ctypes.byref(_where())):
            number = ctypes.get_last_error()
            if number in (_LOCK_VIOLATION, _IO_PENDING):
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            raise ctypes.WinError(number)

    def unlock(fd: int) -> None:
        """Release the lock.

        Raises:
            OSError: there is none.
        """
        if not _kernel32.UnlockFileEx(msvcrt.get_osfhandle(fd), 0, 1, 0, ctypes.byref(_where())):
            raise ctypes.WinError(ctypes.get_last_error())

    def _where() -> _Overlapped:
        return _Overlapped(Offset=_AT & 0xFFFFFFFF, OffsetHigh=_AT >> 32)
