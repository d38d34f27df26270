"""Local files that rows name: where they may lie, what they may be, and what is sent in each wire format."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbatch.core.calls import Reply, Request
from llmbatch.core.errors import MalformedRowError, UsageError
from llmbatch.core.ports import first_request
from llmbatch.core.rows import Row
from llmbatch.core.token_estimate import input_tokens
from llmbatch.providers import local_files
from llmbatch.providers.http_provider import HttpProvider
from llmbatch.providers.media_types import media_type
from llmbatch.providers.resolve import ProviderSettings

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(32)
MP3 = b"ID3\x04" + bytes(32)
PDF = b"%PDF-1.7\n" + bytes(32)

Part = dict[str, Any]


class NoTransport:
    async def post(self, request: Request, *, timeout: float) -> Reply:
        raise AssertionError("nothing is sent")

    async def aclose(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of ``--allow-files``, with one file of each kind, beside a file that is not to be read."""
    inside = tmp_path / "files"
    inside.mkdir()
    (inside / "a.png").write_bytes(PNG)
    (inside / "a.wav").write_bytes(WAV)
    (inside / "a.mp3").write_bytes(MP3)
    (inside / "a.pdf").write_bytes(PDF)
    (inside / "a.txt").write_text('two "lines"\nof text ☃\n', encoding="utf-8")
    (tmp_path / "secret.png").write_bytes(PNG)
    return inside


def body_of(row: dict[str, Any], folder: Path | None, *, model: str = "openai/m") -> dict[str, Any]:
    provider = HttpProvider(
        ProviderSettings(
            model=model,
            environ={"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"},
            allow_files=None if folder is None else str(folder),
        ),
        NoTransport(),
    )
    fields = {name: json.dumps(value) for name, value in row.items()}
    found: dict[str, Any] = json.loads(first_request(provider, Row(1, "", '"r"', fields)).body)
    return found


def chat(*parts: Part) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def sent(part: Part, folder: Path | None) -> Part:
    found: Part = body_of(chat(part), folder)["messages"][0]["content"][0]
    return found


def picture(url: str) -> Part:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def refusal(make: Callable[[], object]) -> MalformedRowError:
    with pytest.raises(MalformedRowError) as caught:
        make()
    return caught.value


# What is sent.


def data_url(media: str, content: bytes) -> str:
    return f"data:{media};base64,{b64encode(content).decode()}"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (picture("file:a.png"), {"image_url": {"url": data_url("image/png", PNG), "detail": "low"}}),
        (picture("FILE:./a.png"), {"image_url": {"url": data_url("image/png", PNG), "detail": "low"}}),
        ({"type": "image_url", "image_url": "file:a.png"}, {"image_url": data_url("image/png", PNG)}),
        (
            {"type": "input_audio", "input_audio": {"data": "file:a.wav"}},
            {"input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "a.mp3", "format": "mp3"}},
            {"input_audio": {"data": b64encode(MP3).decode(), "format": "mp3"}},
        ),
        (
            {"type": "input_audio", "input_audio": {"url": "file:a.mp3"}},
            {"input_audio": {"data": b64encode(MP3).decode(), "format": "mp3"}},
        ),
        ({"type": "input_audio", "input_audio": "a.mp3"}, {"input_audio": b64encode(MP3).decode()}),
        (
            {"type": "file", "file": {"file_data": "file:a.pdf"}},
            {"file": {"file_data": data_url("application/pdf", PDF), "filename": "a.pdf"}},
        ),
    ],
)
def test_each_part_of_a_chat_row_gets_its_file_in_its_own_wire_format(
    folder: Path, part: Part, expected: dict[str, Any]
) -> None:
    """Data URLs for pictures and documents, data and format for audio; other members stay."""
    assert sent(part, folder) == {"type": part["type"], **expected}


def test_messages_of_anthropic_get_base64_sources_and_plain_text(folder: Path) -> None:
    """``source`` names its media type; a text document is sent as text; tool results are searched too."""
    image = {"type": "image", "source": {"type": "url", "url": "file:a.png"}}
    pdf = {"type": "document", "source": {"type": "url", "url": "file:a.pdf"}, "title": "file:is a title"}
    text = {"type": "document", "source": {"type": "url", "url": "file:a.txt"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [image]}

    content = body_of(chat(image, pdf, text, result), folder, model="anthropic/m")["messages"][0]["content"]

    as_sent = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": b64encode(PNG).decode()},
    }
    assert content[0] == as_sent
    assert content[1]["source"]["media_type"] == "application/pdf"
    assert content[1]["title"] == "file:is a title"
    assert content[2]["source"] == {"type": "text", "media_type": "text/plain", "data": 'two "lines"\nof text ☃\n'}
    assert content[3]["content"] == [as_sent]


def test_input_of_responses_gets_data_urls(folder: Path) -> None:
    """``file_url`` becomes ``file_data`` with the file's name."""
    parts = [
        {"type": "input_text", "text": "file:is text"},
        {"type": "input_image", "image_url": "file:a.png"},
        {"type": "input_file", "file_url": "file:a.pdf"},
    ]

    content = body_of({"input": [{"role": "user", "content": parts}]}, folder)["input"][0]["content"]

    assert content == [
        parts[0],
        {"type": "input_image", "image_url": data_url("image/png", PNG)},
        {"type": "input_file", "file_data": data_url("application/pdf", PDF), "filename": "a.pdf"},
    ]


def test_a_prompt_of_parts_gets_its_files(folder: Path) -> None:
    """A list of content parts as ``prompt`` is a user message."""
    found = body_of({"prompt": [{"type": "text", "text": "what?"}, picture("file:a.png")]}, folder)

    assert found["messages"][0]["content"][1]["image_url"]["url"] == data_url("image/png", PNG)


def test_numbers_and_other_messages_of_a_row_with_a_file_keep_their_digits(folder: Path) -> None:
    """Only the part with the file is written anew."""
    fields = {
        "messages": '[{"role":"assistant","content":"x","score":1.10},'
        '{"role":"user","n":12345678901234567890123,"content":[{"type":"image_url","image_url":{"url":"file:a.png"}}]}]'
    }
    settings = ProviderSettings(model="openai/m", environ={"OPENAI_API_KEY": "k"}, allow_files=str(folder))

    body = first_request(HttpProvider(settings, NoTransport()), Row(1, "", '"r"', fields)).body

    assert b'"score":1.10' in body
    assert b'"n":12345678901234567890123' in body


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "file:///etc/passwd"},
        chat({"type": "text", "text": "file:///etc/passwd"}),
        {"messages": [{"role": "user", "content": "file:a.png"}]},
        chat({"type": "tool_use", "id": "t", "name": "open", "input": {"url": "file:///etc/passwd"}}),
        chat(picture("https://example.test/file:a.png")),
        chat({"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}),
    ],
)
def test_text_that_looks_like_a_file_is_sent_as_it_is(row: dict[str, Any]) -> None:
    """Only parts that carry media name files."""
    body = body_of(row, None)

    expected = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    assert body["messages"] == expected


# What is refused.


@pytest.mark.parametrize(
    "part",
    [
        picture("file:a.png"),
        picture("file:///etc/passwd"),
        {"type": "input_audio", "input_audio": {"data": "a.mp3"}},
        {"type": "image", "source": {"type": "url", "url": "file:a.png"}},
        {"type": "file", "file": {"file_data": "file:a.pdf"}},
    ],
)
def test_without_the_flag_a_row_that_names_a_file_is_refused_with_what_to_type(part: Part) -> None:
    """Nobody's row chooses what is read; the message names the flag."""
    error = refusal(lambda: sent(part, None))

    assert error.code == "input_file_not_allowed"
    assert "--allow-files DIR" in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "file:../secret.png",
        "file:sub/../../secret.png",
        "file:%2e%2e/secret.png",
        "file:%2e%2e%2fsecret.png",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "file://localhost/etc/passwd",
        "file://a.png",
        "file://elsewhere/a.png",
        "file:link.png",
        "file:linked/secret.png",
        "file:chain.png",
        "file:",
        "file:.",
        "file:a%00.png",
    ],
)
def test_no_path_leads_out_of_the_folder(folder: Path, url: str) -> None:
    """Neither ``..``, nor an absolute path, nor another machine, nor a link; the message has nothing of the file."""
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "chain.png").symlink_to("link.png")

    error = refusal(lambda: sent(picture(url), folder))

    assert error.code in ("input_file_outside", "input_file_missing")
    assert "--allow-files" in str(error) or "names no file" in str(error)


def test_links_and_absolute_paths_that_stay_in_the_folder_are_followed(folder: Path) -> None:
    """What counts is where the file lies."""
    (folder / "sub dir").mkdir()
    (folder / "sub dir" / "b.png").write_bytes(PNG)
    (folder / "link.png").symlink_to("sub dir/b.png")

    for url in ("file:link.png", "file:sub%20dir/b.png", "file:sub dir/b.png", (folder / "a.png").as_uri()):
        assert sent(picture(url), folder)["image_url"]["url"] == data_url("image/png", PNG)


def test_a_link_that_is_put_in_the_way_while_a_file_is_opened_is_not_followed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path is checked, and then its folder is replaced by a link: opening it folder by folder finds that out."""
    (folder / "sub").mkdir()
    (folder / "sub" / "secret.png").write_bytes(PNG)
    check = local_files._check_regular

    def swap(found: os.stat_result, shown: str) -> None:
        check(found, shown)
        if not (folder / "sub").is_symlink():
            (folder / "sub").rename(folder / "moved")
            (folder / "sub").symlink_to(folder.parent)

    monkeypatch.setattr(local_files, "_check_regular", swap)

    error = refusal(lambda: sent(picture("file:sub/secret.png"), folder))

    assert error.code in ("input_file_outside", "input_file_missing")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names here")
def test_pipes_devices_and_folders_are_not_opened(folder: Path) -> None:
    """A pipe would wait for a writer for ever, and ``/dev/zero`` has no end."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()

    pipe = refusal(lambda: sent(picture("file:pipe.png"), folder))
    below = refusal(lambda: sent(picture("file:folder.png"), folder))
    zero = refusal(lambda: sent(picture("file:zero"), Path("/dev")))

    assert {pipe.code, below.code, zero.code} == {"input_file_unreadable"}
    assert "a pipe, a device or a socket" in str(pipe)
    assert "a folder" in str(below)


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    """By its size, and for all files of a row together."""
    with (folder / "large.png").open("wb") as file:
        file.write(PNG)
        file.truncate(local_files.MAX_FILE_BYTES + 1)
    for name in ("b", "c", "d"):
        with (folder / f"{name}.png").open("wb") as file:
            file.write(PNG)
            file.truncate(local_files.MAX_FILE_BYTES * 3 // 4)

    one = refusal(lambda: sent(picture("file:large.png"), folder))
    together = refusal(lambda: body_of(chat(*(picture(f"file:{name}.png") for name in "bcd")), folder))

    assert one.code == together.code == "input_file_too_large"
    assert "above 20 MB" in str(one)
    assert "above 40 MB together" in str(together)


@pytest.mark.parametrize(
    ("name", "content", "part", "told"),
    [
        ("x.png", b"PASSWORD=1", "image", "of no known type"),
        ("x.pdf", PDF, "image", "is application/pdf; this part takes a picture"),
        ("x.png", PNG, "audio", "is image/png; this part takes audio"),
        ("x.png", b"", "image", "is empty"),
        ("id_rsa", b"-----BEGIN OPENSSH PRIVATE KEY-----", "file", "of no known type"),
        (".env", b"KEY=1", "file", "of no known type"),
    ],
)
def test_a_file_of_another_type_is_refused(folder: Path, name: str, content: bytes, part: str, told: str) -> None:
    """By its content; an extension alone makes no picture."""
    (folder / name).write_bytes(content)
    parts: dict[str, Part] = {
        "image": picture(f"file:{name}"),
        "audio": {"type": "input_audio", "input_audio": {"data": f"file:{name}"}},
        "file": {"type": "file", "file": {"file_data": f"file:{name}"}},
    }

    error = refusal(lambda: sent(parts[part], folder))

    assert error.code == "input_file_type"
    assert told in str(error)


def test_missing_and_unreadable_files_are_told_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with the words of the system."""
    missing = refusal(lambda: sent(picture("file:none.png"), folder))
    below_a_file = refusal(lambda: sent(picture("file:a.png/b.png"), folder))

    real_open = os.open

    def deny(path: Any, flags: int, *args: Any, **keywords: Any) -> int:
        if str(path).endswith("a.png"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *args, **keywords)

    monkeypatch.setattr(os, "open", deny)  # root, as which tests may run, may read everything
    unreadable = refusal(lambda: sent(picture("file:a.png"), folder))

    assert (missing.code, below_a_file.code) == ("input_file_missing", "input_file_missing")
    assert str(missing) == '"file:none.png": no such file or directory'
    assert unreadable.code == "input_file_unreadable"
    assert str(unreadable) == '"file:a.png": permission denied'


@pytest.mark.parametrize(
    "row",
    [
        {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": chat(picture("file:a.png"))},
        {"custom_id": "c", "params": chat({"type": "image", "source": {"type": "url", "url": "file:a.png"}})},
        {"url": "/v1/responses", "body": {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": "file:a.png"}]}]}},
    ],
)  # fmt: skip
def test_a_batch_row_is_not_sent_with_a_file_url(folder: Path, row: dict[str, Any]) -> None:
    """It is sent as it is, so no file can be put in; the message says how to write it instead."""
    error = refusal(lambda: body_of(row, folder))

    assert error.code == "input_file_unsupported"
    assert '{"messages": …}' in str(error)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video", "video": ["file:a.png"]},
        {"type": "image", "image": "file:a.png"},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}, "preview": "file:a.png"},
    ],
)
def test_a_file_url_where_no_file_can_be_put_is_refused(folder: Path, part: Part) -> None:
    """Sent to a provider it would mean nothing, or a file of the server."""
    assert refusal(lambda: sent(part, folder)).code == "input_file_unsupported"


@pytest.mark.parametrize("name", ["missing", "a.png"])
def test_a_folder_that_is_none_is_refused_before_any_row_is_read(folder: Path, name: str) -> None:
    """With the flag in the message."""
    with pytest.raises(UsageError, match="--allow-files"):
        local_files.LocalFiles(str(folder / name))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.jpg", PNG, "image/png"),
        ("x", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("x", b"GIF89a", "image/gif"),
        ("x", b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        ("x", b"\0\0\0\x1cftypheic", "image/heic"),
        ("x", b"\0\0\0\x1cftypM4A ", "audio/mp4"),
        ("x", b"\0\0\0\x1cftypisom", "video/mp4"),
        ("x", b"\xff\xfb\x90\x64", "audio/mpeg"),
        ("x", b"\xff\xf1\x50\x80", "audio/aac"),
        ("x", b"fLaC", "audio/flac"),
        ("x", b"OggS", "audio/ogg"),
        ("x.SVG", b"<svg/>", "image/svg+xml"),
        ("x.md", b"# A", "text/markdown"),
        ("x.docx", b"PK\x03\x04", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("x.zip", b"PK\x03\x04", None),
        ("x.gif", b"GIF", None),
        ("png", b"text", None),
    ],
)
def test_the_content_tells_the_type_before_the_extension_does(name: str, content: bytes, expected: str | None) -> None:
    """Signatures of the formats that providers take."""
    assert media_type(name, content) == expected


def test_a_picture_is_not_counted_as_text() -> None:
    """With a token limit a row with a picture of 3 MB would wait for the tokens of a million words."""
    big = "A" * 4_000_000
    body = json.dumps(chat({"type": "text", "text": "x y " * 4000}, picture(f"data:image/png;base64,{big}"))).encode()
    pdf = json.dumps({"source": {"type": "base64", "data": "JVBERi" + big}}).encode()
    prose = json.dumps({"prompt": "what is base64? " * 1000}).encode()

    assert 7500 < input_tokens(body) < 9000
    assert 90_000 < input_tokens(pdf) < 110_000
    assert input_tokens(prose) == len(prose) // 4
