"""``llmbatch view``: a list of the outputs of folders, and a page for each; no other file can be reached through it."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from llmbatch.core.rows import Result, encode_line
from llmbatch.dashboard.catalog import MOST_FILES, Catalog
from llmbatch.dashboard.listen import listen
from llmbatch.dashboard.overview import ListPainter, page_path
from llmbatch.dashboard.server import PageServer
from llmbatch.dashboard.site import Site
from llmbatch.storage.filesystem import FILESYSTEM


def lines(*numbers: int, failed: tuple[int, ...] = ()) -> bytes:
    """Lines of an output."""
    good = [Result(n, f"{n:016x}", "success", f'"r{n}"', text="secret answer", model="p/m") for n in numbers]
    bad = [Result(n, f"{n:016x}", "failed", f'"r{n}"', error_code="bad", error_message="why") for n in failed]
    return b"".join(map(encode_line, [*good, *bad]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Outputs in a folder and below it, an input, another tool's file, sidecars, links, and a file outside."""
    (tmp_path / "secret.jsonl").write_bytes(lines(1))
    folder = tmp_path / "runs"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.jsonl").write_bytes(lines(1, 2, failed=(3,)))
    (folder / "deep" / "er" / "b.jsonl").write_bytes(lines(1))
    (folder / ".hidden" / "c.jsonl").write_bytes(lines(1))
    (folder / "prompts.jsonl").write_text('{"prompt":"an input"}\n')
    (folder / "tool.jsonl").write_text('{"score":1}\n')
    (folder / "a.events.jsonl").write_text("broken\n")
    (folder / "a.deferred.jsonl").write_text("")
    (folder / "notes.txt").write_bytes(lines(1))
    (folder / "out.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "up").symlink_to(tmp_path)
    (folder / "inside.jsonl").symlink_to(folder / "a.jsonl")
    return folder


@asynccontextmanager
async def viewing(*paths: Path) -> AsyncIterator[int]:
    """The server over *paths*; gives its port."""
    listener = listen(0)
    server = PageServer(listener, Site(Catalog(list(paths)), version="1.0").find)
    await server.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        await server.aclose()


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; the path is sent as it is."""

    def request() -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found

    return await asyncio.to_thread(request)


def test_the_listing_has_outputs_and_names_what_is_none(folder: Path) -> None:
    """Sidecars, hidden folders and links that lead out of the folder are left out."""
    listing = Catalog([folder]).listing()

    assert [entry.key for entry in listing.entries] == ["a.jsonl", "deep/er/b.jsonl", "inside.jsonl"]
    assert listing.others == ("prompts.jsonl", "tool.jsonl")
    assert not listing.is_cut


def test_files_and_folders_can_be_named_together(folder: Path, tmp_path: Path) -> None:
    """Keys are different, also where names are the same; what is named is shown wherever it lies."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.jsonl").write_bytes(lines(1))
    (other / "results.txt").write_bytes(lines(1))

    listing = Catalog([folder, other / "a.jsonl", folder / "a.jsonl", other / "results.txt", other]).listing()

    assert {entry.key for entry in listing.entries} == {
        *("a.jsonl", "a.jsonl (2)", "results.txt", "runs/a.jsonl", "runs/inside.jsonl", "runs/deep/er/b.jsonl"),
        "other/a.jsonl",
    }


@pytest.mark.slow  # much to show
@pytest.mark.traced
def test_a_folder_of_thousands_of_files_is_cut(tmp_path: Path) -> None:
    """And says so."""
    for number in range(MOST_FILES + 5):
        (tmp_path / f"{number}.jsonl").touch()

    assert Catalog([tmp_path]).listing().is_cut


async def test_the_list_leads_to_every_page(folder: Path) -> None:
    """With state, rows and failures; broken histories and foreign files are said to be such."""
    async with viewing(folder) as port:
        status, page = await get(port, "/")
        links = re.findall('href="(/run/[^"]+)"', page)
        pages = [await get(port, link) for link in links]

    assert status == 200
    assert "3 outputs" in page
    assert sorted(links) == ["/run/a.jsonl/", "/run/deep/er/b.jsonl/", "/run/inside.jsonl/"]
    assert "a.events.jsonl holds no history that can be read" in page
    assert "2 other files of JSON lines, which llmbatch has not written" in page
    assert "tool.jsonl" in page
    assert [found[0] for found in pages] == [200, 200, 200]
    assert "3 rows: 2 answered, 1 failed" in pages[links.index("/run/a.jsonl/")][1]
    assert 'href="/"' in pages[0][1]
    assert not [text for _, text in pages if "secret answer" in text]


@pytest.mark.parametrize(
    "key",
    [
        *("../secret.jsonl", "..%2fsecret.jsonl", "%2e%2e/secret.jsonl", "deep/../../secret.jsonl", "/etc/passwd"),
        *("out.jsonl", "up/secret.jsonl", ".hidden/c.jsonl", "prompts.jsonl", "tool.jsonl", "notes.txt", "no.jsonl"),
        *("a.events.jsonl", "a.jsonl%00", "a.jsonl/..", "deep", ".", "a.jsonl/x", "C:\\secret.jsonl", "%"),
    ],
)
async def test_nothing_but_the_listed_outputs_can_be_reached(folder: Path, key: str) -> None:
    """Paths out of the folder, links out of it, inputs, sidecars, hidden files."""
    async with viewing(folder) as port:
        for end in ("/", "/events"):
            status, body = await get(port, f"/run/{key.replace(chr(92), '%5C')}{end}")

            assert status == 404
            assert "secret" not in body


async def test_names_of_all_kinds_have_their_page(tmp_path: Path) -> None:
    """They stay text, and their links work."""
    names = ["a b#c?d%41&e.jsonl", "ü/ß.jsonl", "<img src=x>.jsonl", "'\";,+(2).jsonl", "x%2f..%2fy.jsonl"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines(1))
    (tmp_path / os.fsdecode(b"\xff\xfe.jsonl")).write_bytes(lines(1))

    async with viewing(tmp_path) as port:
        _, page = await get(port, "/")
        statuses = [(await get(port, page_path(name)))[0] for name in (*names, "\\udcff\\udcfe.jsonl")]

    assert "<img" not in page
    assert statuses == [200] * 6
    assert all(quote(name) in page for name in names)


async def test_an_output_that_appears_or_goes_is_noticed(tmp_path: Path) -> None:
    """The list is of now, and a page is 404 once its file is gone."""
    painter = ListPainter(Catalog([tmp_path]), version="1")
    assert "No output of llmbatch is here yet" in painter.page()

    (tmp_path / "a.jsonl").write_bytes(lines(1, 2))
    assert "1 output" in painter.page()
    assert b'"list"' in painter.message(1).news
    assert b'"parts":{}' in painter.message(2).news, "nothing has changed"

    (tmp_path / "a.jsonl").unlink()
    assert "No output of llmbatch is here yet" in painter.page()


def test_damaged_outputs_are_said_to_be_such(tmp_path: Path) -> None:
    """A joined file, a cut one, one of zeros after the first line: the list has a line for each."""
    (tmp_path / "joined.jsonl").write_bytes(lines(1) * 2)
    (tmp_path / "torn.jsonl").write_bytes(lines(1, 2)[:-40])
    (tmp_path / "nul.jsonl").write_bytes(lines(1) + b"\0" * 5000 + b"\n" + lines(2))
    (tmp_path / "good.jsonl").write_bytes(lines(1))

    page = ListPainter(Catalog([tmp_path]), version="1").page()

    assert "4 outputs" in page
    assert "row 1 has a second line here" in page
    assert page.count("cannot be read") == 3, "the title, and two of the lines"


def test_a_finished_output_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the list is looked at; and its lock is left alone, which a run may want just then."""
    looks = 0
    is_locked = FILESYSTEM.is_locked

    def counted(fd: int) -> bool:
        nonlocal looks
        looks += 1
        return is_locked(fd)

    (tmp_path / "a.jsonl").write_bytes(lines(1))
    monkeypatch.setattr(FILESYSTEM, "is_locked", counted)
    painter = ListPainter(Catalog([tmp_path]), version="1")

    for number in range(10):
        painter.message(number)

    assert looks == 1
