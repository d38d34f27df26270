"""Pages in a real browser: nothing on the console, charts that hold their data, and people who cannot see or point."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_page import chromium, needs_chromium, serious_faults, until, watched_page
from night_files import DOWN, HOSTILE, WALL, write_night

from llmbatch.core.rows import Result, encode_line
from llmbatch.dashboard.catalog import Catalog
from llmbatch.dashboard.listen import listen
from llmbatch.dashboard.live import Dashboard
from llmbatch.dashboard.overview import ListPainter
from llmbatch.dashboard.painter import RunPainter
from llmbatch.dashboard.sources import FileSource
from llmbatch.display.report_read import read_report
from llmbatch.outputs.deferred import history_path
from llmbatch.report.html.data import LatestRow
from llmbatch.report.html.page import build_page
from llmbatch.report.iso_time import to_iso

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.xdist_group("chromium")]  # a browser takes some seconds

_WIDE = "[...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
"""How many tables are wider than their place."""
VIEWS = [
    *((390, 844, "dark"), (1280, 900, "light")),
    *(
        pytest.param(*view, marks=pytest.mark.long)
        for view in ((390, 844, "light"), (1280, 900, "dark"), (1920, 1080, "light"), (1920, 1080, "dark"))
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """The page of a report, as a file, of a night with an outage."""
    return as_page(write_night(tmp_path))


def as_page(output: Path) -> Path:
    """The report about *output* as a file."""
    page = output.with_suffix(".html")
    page.write_text(build_page(read_report(output, version="1.0", zone=UTC)))
    return page


def series(page: Page) -> dict[str, list[Any]]:
    """What the charts hold, by the names of their series."""
    charts = page.evaluate("llmbatchCharts.values()")
    return {name: values for chart in charts for name, values in chart["series"]}


def shown(page: Page) -> list[list[float]]:
    """From where to where each chart shows the axis."""
    return [chart["shown"] for chart in page.evaluate("llmbatchCharts.values()")]


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_a_report_opens_from_disk_and_loads_nothing(
    browser: Browser, night: Path, width: int, height: int, scheme: Any
) -> None:
    """It fits the screen, its charts are drawn, and axe finds nothing serious."""
    size: Any = {"width": width, "height": height}
    with watched_page(browser, offline=True, viewport=size, color_scheme=scheme) as page:
        page.goto(night.as_uri())
        page.wait_for_selector(".u-over")

        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("canvas").count() == 7
        assert page.locator("#plain").is_hidden()
        assert all(
            page.evaluate(
                "[...document.querySelectorAll('canvas')].map((one) => { const data = one.getContext('2d')"
                ".getImageData(0, 0, one.width, one.height).data; let n = 0; for (let i = 3; i < data.length; i += 4)"
                " n += data[i] > 0; return n > 500; })"
            )
        ), "a chart is empty"
        assert serious_faults(page) == []


def test_charts_hold_the_numbers_of_the_history(browser: Browser, night: Path) -> None:
    """Per second and minute, latencies only where calls were good, cost summed up."""
    with watched_page(browser) as page:
        page.goto(night.as_uri())
        held = series(page)
        places = page.evaluate("llmbatchCharts.values()[0].places")

    minutes = list(range(0, 7200, 60))
    is_down = [DOWN[0] <= at < DOWN[1] for at in minutes]
    assert places[:-1] == pytest.approx(minutes)
    assert held["answered"][:-1] == pytest.approx([0 if down else 2 / 60 for down in is_down])
    assert held["failed rows"][:-1] == pytest.approx([0 if down else 1 for down in is_down])
    assert held["throttled calls"][:-1] == pytest.approx([2 if down else 0 for down in is_down])
    assert held["parked"][:-1] == [900 if down else 0 for down in is_down]
    assert held["limit"][:-1] == [40] * 120
    assert held["p95"][:-1] == [None if down else 1.5 for down in is_down]
    assert held["cost"][-1] == pytest.approx(0.01 * is_down.count(False))


def test_the_time_can_be_chosen_and_zoomed_by_keyboard_alone(browser: Browser, night: Path) -> None:
    """A slider says the values at its time; buttons zoom all charts at once."""
    with watched_page(browser) as page:
        page.goto(night.as_uri())
        whole = shown(page)[0]
        slider = page.get_by_role("slider", name="Time")

        slider.focus()
        page.keyboard.press("Home")
        at_first = slider.get_attribute("aria-valuetext") or ""
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        in_outage = slider.get_attribute("aria-valuetext") or ""
        page.get_by_role("button", name="Zoom in").press("Enter")
        zoomed = shown(page)
        page.get_by_role("button", name="Later").press("Space")
        later = shown(page)
        page.get_by_role("button", name="All of it").press("Enter")

        assert "answered 0.0333" in at_first
        assert "p95 1.5 s" in at_first
        assert in_outage.startswith("02:20:00: outage of openai/gpt-5-mini, 1h34m")
        assert "parked 900" in in_outage
        assert page.locator("#readout").text_content() == "02:20:00: outage of openai/gpt-5-mini, 1h34m"
        assert len({tuple(one) for one in zoomed}) == 1, "all charts show the same time"
        assert zoomed[0][1] - zoomed[0][0] == pytest.approx((whole[1] - whole[0]) / 2)
        assert later[0][0] > zoomed[0][0]
        assert shown(page)[0] == pytest.approx(whole)


def test_a_mouse_zooms_and_points(browser: Browser, night: Path) -> None:
    """To drag over one chart zooms all; a double click shows all again; the pointer chooses the time."""
    with watched_page(browser) as page:
        page.goto(night.as_uri())
        whole = shown(page)[0]
        area = page.locator(".u-over").first
        box = area.bounding_box()
        assert box is not None
        left, middle = box["x"], box["y"] + box["height"] / 2

        page.mouse.move(left + box["width"] * 0.01, middle)
        page.mouse.down()
        page.mouse.move(left + box["width"] * 0.1, middle, steps=5)
        page.mouse.up()
        zoomed = shown(page)
        page.mouse.move(left + box["width"] * 0.5, middle)
        readout = page.locator("#readout").text_content() or ""
        area.dblclick()

        assert all(one == pytest.approx(zoomed[0], abs=20) for one in zoomed)
        assert zoomed[0][1] - zoomed[0][0] == pytest.approx(0.09 * (whole[1] - whole[0]), rel=0.1)
        assert readout[:5] in ("02:06", "02:07")
        assert shown(page)[0] == pytest.approx(whole)


def test_a_pause_is_told_where_the_cursor_is(browser: Browser, tmp_path: Path) -> None:
    """Beside an outage at the same time; and all of the charts again, as a live page gets it, moves nothing."""
    output = write_night(tmp_path)
    with history_path(output).open("a") as lines:
        lines.write(json.dumps({"kind": "pause", "from": to_iso(WALL + 360), "to": to_iso(WALL + 480)}) + "\n")
    with watched_page(browser) as page:
        page.goto(as_page(output).as_uri())
        page.wait_for_selector(".u-over")
        slider = page.get_by_role("slider", name="Time")
        words = []
        for place in ("5", "6", "7", "8"):
            slider.fill(place)
            words.append((page.locator("#readout").text_content() or "").partition(": ")[2])
        assert words[0] == ""
        assert words[1] == "paused by its user, 2m00s"
        assert words[2] == f"{words[3]}, paused by its user, 2m00s"
        assert words[3].startswith("outage of openai/gpt-5-mini")
        assert "Blue areas are pauses" in (page.locator("#span").text_content() or "")

        page.get_by_role("button", name="Zoom in").click()
        before = shown(page)
        page.evaluate("llmbatchCharts.update(JSON.parse(document.getElementById('chart-data').textContent))")

        assert shown(page) == before
        assert slider.input_value() == "8"


def test_without_scripts_and_on_paper_the_plain_pictures_stay(browser: Browser, night: Path) -> None:
    """They are drawn by the server."""
    with watched_page(browser, java_script_enabled=False) as page:
        page.goto(night.as_uri())
        assert page.locator("#plain svg").first.is_visible()
        assert page.locator("#charts").is_hidden()
    with watched_page(browser) as page:
        page.goto(night.as_uri())
        page.emulate_media(media="print")
        assert page.locator("#plain svg").first.is_visible()
        assert page.locator("#charts").is_hidden()


def test_on_paper_no_table_is_cut_off(browser: Browser, tmp_path: Path) -> None:
    """Nobody can scroll there; the charts follow the verdict on the first sheet."""
    output = write_night(tmp_path)
    long = (
        "llmbatch run prompts.jsonl -m openai/gpt-5-mini --notify 'sh examples/notify/slack.sh' --dashboard 8123 " * 3
    )
    text = history_path(output).read_text().replace("llmbatch run an ordinary text", long)
    history_path(output).write_text(text)
    with watched_page(browser, viewport={"width": 700, "height": 1000}) as page:
        page.goto(as_page(output).as_uri())
        assert page.evaluate(_WIDE) > 0
        page.emulate_media(media="print")

        assert page.evaluate(_WIDE) == 0
        assert page.locator("#plain figure").first.bounding_box()["y"] < 1000  # type: ignore[index]
        assert page.evaluate("getComputedStyle(document.getElementById('time')).breakInside") == "auto"


def test_hostile_text_stays_text(browser: Browser, tmp_path: Path) -> None:
    """Of ids, answers, errors, models and commands: in the report, on the page of a server, and in its messages."""
    output = write_night(tmp_path, hostile=True)
    visible = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    with serving(RunPainter(FileSource(output, version="1"), events="/events")) as url:
        for address in (as_page(output).as_uri(), url):
            with watched_page(browser) as page:
                page.goto(address)
                page.wait_for_selector(".u-over")
                until(page, "!document.body.dataset.events || document.body.dataset.seq")

                assert page.locator("img").count() == 0
                assert page.locator("script").count() == 2
                assert visible in (page.locator("#slowest").text_content() or "")
                assert visible in (page.locator("#failures").text_content() or "")
                assert visible[:20] in (page.locator("#head, header").first.text_content() or "")


def test_hostile_prompts_and_answers_stay_text(browser: Browser, tmp_path: Path) -> None:
    """Where they are shown at all."""
    row = LatestRow(
        number=1, id=HOSTILE, failed=False, code="", latency_s=1.0, model=HOSTILE, prompt=HOSTILE, answer=HOSTILE
    )
    report = replace(read_report(write_night(tmp_path), version="1"), latest=[row])
    file = tmp_path / "page.html"
    file.write_text(build_page(report))
    with watched_page(browser) as page:
        page.goto(file.as_uri())
        visible = HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
        cells = page.locator("#latest td").all_text_contents()
        assert [cell.count(visible[:80]) for cell in cells] == [1, 0, 0, 0, 1, 1, 1]
        assert page.locator("img").count() == 0


def test_a_week_of_history_is_drawn_at_once(browser: Browser, tmp_path: Path) -> None:
    """As many buckets as are kept of so long a time, in less than the time that somebody waits."""
    output = write_night(tmp_path, rows=6000, seconds=180_000)
    with watched_page(browser) as page:
        page.goto(as_page(output).as_uri())
        page.wait_for_selector(".u-over", timeout=10_000)
        assert len(series(page)["answered"]) > 850


def serving(painter: Any) -> Any:
    """The address of a live page, until the block ends."""
    dashboard = Dashboard(listen(0), painter)

    class Serving:
        def __enter__(self) -> str:
            dashboard.__enter__()
            return dashboard.url

        def __exit__(self, *_: object) -> None:
            dashboard.__exit__(None, None, None)

    return Serving()


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_a_live_page_takes_what_is_new_without_a_reload(
    browser: Browser, tmp_path: Path, width: int, height: int, scheme: Any
) -> None:
    """New rows and new time; what somebody has opened stays open, and axe finds nothing serious."""
    output = write_night(tmp_path)
    size: Any = {"width": width, "height": height}
    with (
        serving(RunPainter(FileSource(output, version="1"), events="/events")) as url,
        watched_page(browser, viewport=size, color_scheme=scheme) as page,
    ):
        page.goto(url)
        until(page, "document.body.dataset.seq > 0")
        page.locator("#numbers summary").click()
        slider = page.get_by_role("slider", name="Time")
        assert slider.input_value() == "120"
        before = len(series(page)["answered"])

        with output.open("ab") as file:
            file.write(encode_line(Result(999, f"{999:016x}", "success", '"new one"', text="x", model="p/m")))
        with history_path(output).open("a") as lines:
            lines.write(f'{{"kind":"bucket","start":{WALL + 7200},"width":60,"success":1,"in_flight":7}}\n')
        until(page, "document.querySelector('h1').textContent.includes('181 answered')")
        until(page, f"llmbatchCharts.values()[0].places.length > {before}")
        until(page, "document.querySelector('#models').textContent.includes('p/m')")

        assert page.locator("#numbers details").get_attribute("open") is not None
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert series(page)["in flight"][-1] == 7
        assert slider.input_value() == "121", "the cursor follows what is newest"
        assert "No run goes on here" in (page.locator("#live").text_content() or "")
        assert serious_faults(page) == []


def test_charts_begin_when_the_history_does(browser: Browser, tmp_path: Path) -> None:
    """A page that was opened before anything had happened."""
    output = write_night(tmp_path)
    history = history_path(output).read_text()
    history_path(output).unlink()
    with serving(RunPainter(FileSource(output, version="1"), events="/events")) as url, watched_page(browser) as page:
        page.goto(url)
        until(page, "document.body.dataset.seq > 0")
        assert page.locator("canvas").count() == 0
        assert "There is no history" in (page.locator("#plain").text_content() or "")

        history_path(output).write_text(history)

        page.wait_for_selector(".u-over")
        assert len(series(page)["answered"]) == 121


def test_a_page_in_the_background_holds_no_connection(browser: Browser, tmp_path: Path) -> None:
    """It costs nothing; when it is looked at again it catches up."""
    output = write_night(tmp_path)
    with serving(RunPainter(FileSource(output, version="1"), events="/events")) as url, watched_page(browser) as page:
        page.goto(url)
        until(page, "document.body.dataset.seq > 0")
        page.evaluate(
            "() => { Object.defineProperty(document, 'hidden', {get: () => window.isHidden}); window.isHidden = true;"
            " document.dispatchEvent(new Event('visibilitychange')); delete document.body.dataset.seq; }"
        )
        page.wait_for_timeout(2500)
        assert page.evaluate("document.body.dataset.seq") is None

        page.evaluate("() => { window.isHidden = false; document.dispatchEvent(new Event('visibilitychange')); }")

        until(page, "document.body.dataset.seq > 0")


def test_the_end_is_told_on_open_pages(browser: Browser, tmp_path: Path) -> None:
    """They stay as they are, and ask no more."""
    output = write_night(tmp_path)
    context = serving(RunPainter(FileSource(output, version="1"), events="/events"))
    with watched_page(browser) as page:
        with context as url:
            page.goto(url)
            until(page, "document.body.dataset.seq > 0")
        until(page, "document.querySelector('#live').textContent.startsWith('The run has ended')")
        page.wait_for_timeout(1500)

        assert "180 answered" in (page.locator("h1").text_content() or "")
        assert page.locator("#live").text_content() == (
            "The run has ended, and the dashboard with it. This is how it ended; what to type next is below."
        )


@pytest.mark.parametrize(("width", "height", "scheme"), VIEWS)
def test_the_list_of_outputs_leads_to_them_by_keyboard(
    browser: Browser, tmp_path: Path, width: int, height: int, scheme: Any
) -> None:
    """It fits the screen, and axe finds nothing serious."""
    write_night(tmp_path)
    (tmp_path / "<img src=x onerror=window.evil=1>.jsonl").write_bytes(b'{"row":broken\n')
    size: Any = {"width": width, "height": height}
    with (
        serving(ListPainter(Catalog([tmp_path]), version="1")) as url,
        watched_page(browser, viewport=size, color_scheme=scheme) as page,
    ):
        page.goto(url)
        until(page, "document.body.dataset.seq > 0")

        assert "2 outputs: 1 cannot be read" in (page.locator("h1").text_content() or "")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.get_by_role("link", name="night.results.jsonl").get_attribute("href") == "/run/night.results.jsonl/"
        assert serious_faults(page) == []
