"""The media type of a file that a row names: by the signature of its content, then by its extension.

An extension counts only for types whose content has no signature, so a text file named ``a.png`` is no picture.
"""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["AUDIO_FORMATS", "MediaKind", "is_of_kind", "media_type", "pretty_kinds"]

MediaKind = Literal["image", "audio", "video", "document"]

_SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF....WEBP", "image/webp"),
        (rb"BM....\0\0\0\0", "image/bmp"),
        (rb"II\*\0|MM\0\*", "image/tiff"),
        (rb"....ftyp(?:avif|avis)", "image/avif"),
        (rb"....ftyp(?:heic|heix|hevc|hevx|mif1|msf1)", "image/heic"),
        (rb"RIFF....WAVE", "audio/wav"),
        (rb"fLaC", "audio/flac"),
        (rb"OggS", "audio/ogg"),
        (rb"FORM....AIF[FC]", "audio/aiff"),
        (rb"\xff[\xf0\xf1\xf8\xf9]", "audio/aac"),
        (rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", "audio/mpeg"),
        (rb"....ftypM4[AB]", "audio/mp4"),
        (rb"....ftyp", "video/mp4"),
        (rb"\x1aE\xdf\xa3", "video/webm"),
        (rb"%PDF-", "application/pdf"),
    )
)
"""Beginnings of files: the first that matches tells the type. ``ftyp`` is the box of ISO media files, whose brand
follows (ISO/IEC 14496-12)."""

_OFFICE = "application/vnd.openxmlformats-officedocument"
_BY_EXTENSION = {
    "svg": "image/svg+xml",
    "txt": "text/plain",
    "text": "text/plain",
    "log": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "html": "text/html",
    "htm": "text/html",
    "xml": "text/xml",
    "json": "application/json",
}
"""Types whose content has no signature."""

_ZIPPED = {
    "docx": f"{_OFFICE}.wordprocessingml.document",
    "xlsx": f"{_OFFICE}.spreadsheetml.sheet",
    "pptx": f"{_OFFICE}.presentationml.presentation",
}

_DOCUMENTS = frozenset({"application/pdf", "application/json", *_ZIPPED.values()})

AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/mpeg": "mp3",
    "audio/flac": "flac",
    "audio/ogg": "ogg",
    "audio/mp4": "m4a",
    "audio/aac": "aac",
    "audio/aiff": "aiff",
    "video/webm": "webm",
}
"""Values of ``format`` beside the audio of a chat message, by media type."""

_LONGEST_SIGNATURE = 16


def media_type(name: str, content: bytes) -> str | None:
    """The media type of the file *name* with *content*; None if it is not known. Cost: a microsecond."""
    head = content[:_LONGEST_SIGNATURE]
    for signature, found in _SIGNATURES:
        if signature.match(head):
            return found
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if head.startswith(b"PK\x03\x04"):
        return _ZIPPED.get(extension)
    return _BY_EXTENSION.get(extension)


def is_of_kind(media: str, kind: MediaKind) -> bool:
    """Whether a file of the type *media* can be sent as a *kind*."""
    if kind == "document":
        return media in _DOCUMENTS or media.startswith("text/")
    if kind == "audio":
        return media in AUDIO_FORMATS
    return media.startswith(f"{kind}/")


def pretty_kinds(kind: MediaKind) -> str:
    """What can be sent as *kind*, for messages."""
    return {
        "image": "a picture (PNG, JPEG, GIF, WebP and others)",
        "audio": "audio (WAV, MP3, FLAC, Ogg and others)",
        "video": "a video (MP4 or WebM)",
        "document": "a document (PDF, text, Office)",
    }[kind]
