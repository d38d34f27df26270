"""Reads the local files that rows name, below one folder only, and puts them into request bodies as base64.

A row comes from whoever wrote the input, so it may not choose what is read: a path is followed only if it ends at a
regular file below the folder of ``--allow-files``, once ``..`` and links are resolved. Nothing is read of a device or a
pipe. Files are read when a request is built, so waiting rows hold none.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.raw_json import dumps
from llmbatch.providers.formats.file_parts import FilePiece, is_file_url, may_name_files, with_files
from llmbatch.providers.media_types import MediaKind, is_of_kind, media_type, pretty_kinds
from llmbatch.storage.filesystem import O_CLOEXEC, O_DIRECTORY

__all__ = ["MAX_FILE_BYTES", "MAX_ROW_BYTES", "LocalFiles", "check_folder"]

MAX_FILE_BYTES = 20_000_000
"""Largest file that is sent."""

MAX_ROW_BYTES = 40_000_000
"""Most bytes of all files of one row. In base64 that is 53 MB, more than any provider takes in a request."""

_CONTENT_MEMBERS = ("messages", "input", "prompt")

_MARK = "\0"
"""Stands around the number of a file until the body is bytes; JSON text has no such character."""

_O_NOFOLLOW: Final[int] = getattr(os, "O_NOFOLLOW", 0)
_CAN_WALK = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")


def check_folder(folder: str) -> None:
    """Check that *folder* can be that of ``--allow-files``.

    Raises:
        UsageError: it is no folder.
    """
    if not Path(folder).is_dir():
        what = "is not a folder" if Path(folder).exists() else "does not exist"
        raise UsageError(
            f"--allow-files {folder} {what}", hint="name the folder with the files that rows name: --allow-files DIR"
        )


class LocalFiles:
    """Puts files into the bodies of rows; with None as *folder*, refuses rows that name any.

    *are_of_server*: neither; the URLs are for the server, which reads the files. Used on one event loop. Reading blocks
    it, as reading the input does.

    Raises :class:`~llmbatch.core.errors.UsageError` if *folder* is no folder, or the files are the server's too.
    """

    def __init__(self, folder: str | None, *, are_of_server: bool = False) -> None:
        self._root = None
        self._are_of_server = are_of_server
        if folder is not None and are_of_server:
            raise UsageError(
                f"--allow-files {folder} and --server-files: files are read either here or by the server",
                hint="leave one of them out",
            )
        if folder is not None:
            check_folder(folder)
            self._root = os.path.realpath(folder)

    def place(self, members: dict[str, str]) -> _RowFiles | None:
        """Put marks for the files that *members* of a request name in their places; None if they name none.

        Cost: a search of the content.

        Raises:
            MalformedRowError: a file cannot be sent.
        """
        files: _RowFiles | None = None
        if self._are_of_server:
            return None
        for name in _CONTENT_MEMBERS:
            text = members.get(name)
            if text is not None and may_name_files(text):
                files = files or _RowFiles(self._root)
                members[name] = with_files(text, files.load)
        return files if files is not None and files.is_used else None

    def refuse(self, members: Mapping[str, str]) -> None:
        """Check that the *members* of a batch row, which is sent as it is, name no files of this machine.

        Raises:
            MalformedRowError: one does.
        """
        if self._are_of_server:
            return
        for text in members.values():
            if may_name_files(text):
                with_files(text, _refuse_in_batch_row)


class _RowFiles:
    """The files of one request."""

    def __init__(self, root: str | None) -> None:
        self._root = root
        self._pieces: list[bytes] = []
        self._bytes = 0

    @property
    def is_used(self) -> bool:
        return bool(self._pieces)

    def load(self, named: str, kind: MediaKind) -> FilePiece:
        """Read the file of a URL or path *named* in a row, which must be of *kind*.

        Raises:
            MalformedRowError: it cannot be sent.
        """
        shown = _shown(named)
        if self._root is None:
            raise MalformedRowError(
                "input_file_not_allowed",
                f"the row names the local file {shown}; files are read only below a folder that you name: "
                "--allow-files DIR; a server that reads its own files is sent the URL with --server-files",
            )
        path = _path_of(named, shown)
        content = _read(self._root, path, shown)
        self._bytes += len(content)
        if self._bytes > MAX_ROW_BYTES:
            raise MalformedRowError(
                "input_file_too_large", f"the files of the row are above {MAX_ROW_BYTES // 1_000_000} MB together"
            )
        name = Path(path).name
        media = media_type(name, content) if content else None
        if media is None or not is_of_kind(media, kind):
            is_what = "is empty" if not content else f"is {media or 'of no known type'}"
            raise MalformedRowError("input_file_type", f"{shown} {is_what}; this part takes {pretty_kinds(kind)}")

        def text() -> str:
            try:
                written = dumps(content.decode("utf-8-sig"))[1:-1]
            except UnicodeDecodeError:
                raise MalformedRowError("input_file_type", f"{shown} is not UTF-8 text") from None
            self._pieces[at] = written.encode()
            return mark

        at = len(self._pieces)
        mark = f"{_MARK}{at}{_MARK}"
        self._pieces.append(b64encode(content))
        return FilePiece(name, media, mark, text)

    def fill(self, body: bytes) -> bytes:
        """*body* with the files in place of their marks. The content is copied once."""
        parts = body.split(_MARK.encode())
        parts[1::2] = [self._pieces[int(at)] for at in parts[1::2]]
        return b"".join(parts)


def _refuse_in_batch_row(named: str, kind: MediaKind) -> FilePiece:
    raise MalformedRowError(
        "input_file_unsupported",
        f"the row names the local file {_shown(named)}, but a batch row is sent as it is; "
        'to have the file sent, write the row as {"messages": …} (with --allow-files DIR)',
    )


def _shown(named: str) -> str:
    return dumps(named if len(named) <= 200 else named[:200] + "…")


def _path_of(named: str, shown: str) -> str:
    """The path that a URL or path *named* in a row means.

    Raises:
        MalformedRowError: it names another machine, or a parent folder.
    """
    path = named
    if is_file_url(named):
        path = named[5:]
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            if host.lower() not in ("", "localhost"):
                raise MalformedRowError(
                    "input_file_outside",
                    f"{shown} names the machine {_shown(host)}; a path below --allow-files is written file:{host[:100]}"
                    f"{slash}…",
                )
            path = slash + rest
        path = unquote(path)
        if os.name == "nt":  # file:///C:/a.png
            path = path.lstrip("/") if path[2:3] == ":" else path
    if "\0" in path or not path.strip("/"):
        raise MalformedRowError("input_file_missing", f"{shown} names no file")
    if ".." in Path(path).parts:
        raise _outside(shown)
    return path


def _outside(shown: str) -> MalformedRowError:
    return MalformedRowError("input_file_outside", f"{shown} is not below the folder of --allow-files")


def _read(root: str, path: str, shown: str) -> bytes:
    """The content of the file at *path*, relative to *root* unless it is absolute.

    Raises:
        MalformedRowError: it is not below *root*, not a regular file, too large, or cannot be read.
    """
    try:
        real = os.path.realpath(Path(root, path))
        if real == root or os.path.commonpath((real, root)) != root:
            raise _outside(shown)
        _check_regular(os.lstat(real), shown)  # before it is opened: to open a device may do something
        with _opened(root, real) as descriptor:
            _check_regular(os.fstat(descriptor), shown)
            content = _content(descriptor)
    except OSError as error:
        code = "input_file_missing" if isinstance(error, FileNotFoundError) else "input_file_unreadable"
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            code = "input_file_outside" if error.errno == errno.ELOOP else "input_file_missing"
        raise MalformedRowError(code, f"{shown}: {(error.strerror or 'cannot be read').lower()}") from error
    except ValueError:  # on another drive of Windows, or a name that the system cannot have
        raise _outside(shown) from None
    if len(content) > MAX_FILE_BYTES:
        raise _too_large(shown)
    return content


def _check_regular(found: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
        raise MalformedRowError("input_file_unreadable", f"{shown} is {what}, not a file")
    if found.st_size > MAX_FILE_BYTES:
        raise _too_large(shown)


def _too_large(shown: str) -> MalformedRowError:
    return MalformedRowError("input_file_too_large", f"{shown} is above {MAX_FILE_BYTES // 1_000_000} MB")


@contextlib.contextmanager
def _opened(root: str, real: str) -> Iterator[int]:
    """A descriptor of the file at *real*, which is below *root*; neither has links in it.

    Where the system can do it, each folder is opened from the one above without following links, so that nobody can
    put a link in the way between the check and the opening.
    """
    flags = os.O_RDONLY | O_CLOEXEC | _O_NOFOLLOW | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)
    if not _CAN_WALK:
        descriptor = os.open(real, flags)
    else:
        *folders, name = Path(real).relative_to(root).parts
        at = os.open(root, os.O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        try:
            for folder in folders:
                below = os.open(folder, os.O_RDONLY | O_DIRECTORY | _O_NOFOLLOW | O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = below
            descriptor = os.open(name, flags, dir_fd=at)
        finally:
            os.close(at)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _content(descriptor: int) -> bytes:
    """All that the file has, up to one byte above the limit: it may have grown since its size was read."""
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_FILE_BYTES + 1)
