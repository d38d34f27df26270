"""Finds the local files that the parts of messages name, and writes their content in their place.

Each part keeps its own wire format; nothing is translated between the formats:

=================================  ===================================  ===============================================
type of the part                   where it names ``file:…``            what is sent
=================================  ===================================  ===============================================
``image_url`` (also ``audio_url``  ``image_url``, a string, or its      a data URL
and others), ``input_image``       ``url``
``input_audio``                    ``data`` (or a path), or ``url``     ``data`` and ``format``
``file``, ``input_file``           ``file_data`` or ``file_url``        ``file_data``, a data URL, and ``filename``
``image``, ``document``            ``url`` or ``data`` of ``source``    ``source`` of the type ``base64``, or ``text``
=================================  ===================================  ===============================================

A ``file:`` URL elsewhere in such a part is refused: no provider could read it. Text that looks like one is text. Only
parts with files are parsed; the source text of all others is passed on. Reads no files itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from llmbatch.core.calls import record
from llmbatch.core.errors import MalformedRowError
from llmbatch.core.raw_json import JSON, dumps, parse, split_array, split_object
from llmbatch.providers.formats.bodies import to_text
from llmbatch.providers.media_types import AUDIO_FORMATS, MediaKind

__all__ = ["FilePiece", "LoadFile", "is_file_url", "may_name_files", "with_files"]

_AUDIO_PATH = re.compile(r"[^\x00]{1,1024}\.(?:wav|mp3|flac|ogg|oga|opus|m4a|aac|aiff?|webm)", re.I)
"""A path in place of base64 data, which has no dots."""
_MAY_BE_PATH = re.compile(r'"[^"]{1,1024}\.\w{2,4}"')

_BY_TYPE: Mapping[str, MediaKind] = {
    "image_url": "image",
    "input_image": "image",
    "audio_url": "audio",
    "video_url": "video",
    "document_url": "document",
    "input_audio": "audio",
    "file": "document",
    "input_file": "document",
    "image": "image",
    "document": "document",
}
"""The parts that carry media, and what the file in them must be."""

_TEXTS = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning", "tool_use", "tool_call"})
"""Parts whose strings are text, or arguments, whatever they look like."""

_TEXT_MEMBERS = frozenset({"type", "text", "title", "context", "filename", "name"})

_ANTHROPIC_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})


@record
class FilePiece:
    """A file to be sent. ``base64`` and ``text`` stand for its content inside a JSON string.

    ``text`` is empty for files that are not text.
    """

    name: str
    media_type: str
    base64: str
    text: Callable[[], str]


LoadFile = Callable[[str, MediaKind], FilePiece]
"""Finds the file of a ``file:`` URL or a path, which must be of a kind.

Raises :class:`~llmbatch.core.errors.MalformedRowError` if it cannot be sent.
"""


def is_file_url(text: str) -> bool:
    """Whether *text* is a ``file:`` URL."""
    return text[:5].lower() == "file:"


def may_name_files(text: str) -> bool:
    """Whether *text*, JSON, may name local files. Cost: one search where there are no parts, else a few."""
    return '"type"' in text and _may_be_file(text)


def _may_be_file(text: str) -> bool:
    return (
        '"file:' in text
        or '"File:' in text
        or '"FILE:' in text
        or ('"input_audio"' in text and _MAY_BE_PATH.search(text) is not None)
    )


def with_files(text: str, load: LoadFile) -> str:
    """*text*, JSON of messages or parts, with the files that they name; *load* finds each.

    Raises:
        MalformedRowError: a file cannot be sent, or is named where no provider could take it.
    """
    if not may_name_files(text):
        return text
    if text.startswith("["):
        return "[" + ",".join([with_files(item, load) for item in split_array(text) or ()]) + "]"
    if not text.startswith("{"):
        return text
    members = split_object(text) or {}
    kind = _string(members.get("type"))
    media = _BY_TYPE.get(kind)
    if media is not None:
        return to_text(_part(kind, media, members, load))
    if kind in _TEXTS:
        return text
    for name in ("content", "output"):
        if name in members:
            members[name] = with_files(members[name], load)
    _refuse_others(kind, {name: value for name, value in members.items() if name not in ("content", "output", "role")})
    return to_text(members)


def _part(kind: str, media: MediaKind, members: dict[str, str], load: LoadFile) -> dict[str, str]:
    """The *members* of a part of type *kind* with its file."""
    match kind:
        case "input_audio":
            _audio(members, load)
        case "file":
            inner = _object(members.get("file"))
            if inner is not None:
                members["file"] = to_text(_file_data(inner, load))
        case "input_file":
            _file_data(members, load)
        case "image" | "document":
            source = _object(members.get("source"))
            if source is not None:
                members["source"] = to_text(_source(source, media, load))
        case _:
            name = "image_url" if kind == "input_image" else kind
            inner = _object(members.get(name))
            if inner is None:
                _data_url(members, name, media, load)
            else:
                _data_url(inner, "url", media, load)
                members[name] = to_text(inner)
    _refuse_others(kind, members)
    return members


def _data_url(members: dict[str, str], name: str, media: MediaKind, load: LoadFile) -> FilePiece | None:
    """Replace the URL of the member *name*, if it is that of a file, by the file's data URL."""
    url = _string(members.get(name))
    if not is_file_url(url):
        return None
    piece = load(url, media)
    members[name] = f'"data:{piece.media_type};base64,{piece.base64}"'
    return piece


def _file_data(members: dict[str, str], load: LoadFile) -> dict[str, str]:
    if is_file_url(_string(members.get("file_url"))):
        members["file_data"] = members.pop("file_url")
    piece = _data_url(members, "file_data", "document", load)
    if piece is not None:
        members.setdefault("filename", dumps(piece.name))
    return members


def _audio(members: dict[str, str], load: LoadFile) -> None:
    named = members.get("input_audio")
    inner = _object(named)
    if inner is None:
        path = _string(named)
        if _is_audio_path(path):
            members["input_audio"] = f'"{load(path, "audio").base64}"'  # as Mistral takes it
        return
    for name in ("data", "url"):
        path = _string(inner.get(name))
        if is_file_url(path) or (name == "data" and _is_audio_path(path)):
            piece = load(path, "audio")
            inner.pop("url", None)
            inner["data"] = f'"{piece.base64}"'
            inner.setdefault("format", dumps(AUDIO_FORMATS[piece.media_type]))
            break
    members["input_audio"] = to_text(inner)


def _is_audio_path(text: str) -> bool:
    return is_file_url(text) or (":" not in text and _AUDIO_PATH.fullmatch(text) is not None)


def _source(source: dict[str, str], media: MediaKind, load: LoadFile) -> dict[str, str]:
    """The ``source`` of a part of Anthropic's format with the file that it names."""
    kind = _string(source.get("type"))
    if kind == "content" and "content" in source:
        return {**source, "content": with_files(source["content"], load)}
    url = _string(source.get({"url": "url", "base64": "data"}.get(kind, "")))
    if not is_file_url(url):
        return source
    piece = load(url, media)
    if media == "document" and piece.media_type.startswith("text/"):
        return {"type": '"text"', "media_type": '"text/plain"', "data": f'"{piece.text()}"'}
    if piece.media_type not in (_ANTHROPIC_IMAGES if media == "image" else ("application/pdf",)):
        taken = "PNG, JPEG, GIF and WebP" if media == "image" else "PDF and text"
        raise MalformedRowError(
            "input_file_type", f"{piece.name} is {piece.media_type}, and Anthropic's format takes {taken}"
        )
    return {"type": '"base64"', "media_type": dumps(piece.media_type), "data": f'"{piece.base64}"'}


def _refuse_others(kind: str, members: Mapping[str, str]) -> None:
    """Refuse ``file:`` URLs that are left in *members*, of a part of type *kind*.

    Raises:
        MalformedRowError: there is one.
    """
    for name, text in members.items():
        if name not in _TEXT_MEMBERS and _may_be_file(text) and _names_file(parse(text)):
            where = f"{name} of a part of type {kind}" if kind else name
            raise MalformedRowError(
                "input_file_unsupported",
                f"{where[:100]} is a file: URL, where llmbatch puts no file in; a picture is written "
                '{"type":"image_url","image_url":{"url":"file:PATH"}}',
            )


def _names_file(value: JSON) -> bool:
    match value:
        case str():
            return is_file_url(value)
        case list():
            return any(map(_names_file, value))
        case dict():
            return any(name not in _TEXT_MEMBERS and _names_file(item) for name, item in value.items())
        case _:
            return False


def _string(text: str | None) -> str:
    """The string that *text*, JSON, is; empty for anything else, and for one that is too long for a path."""
    if text is None or not text.startswith('"') or len(text) > 10_000:
        return ""
    return str(parse(text))


def _object(text: str | None) -> dict[str, str] | None:
    return split_object(text) if text is not None and text.startswith("{") else None
