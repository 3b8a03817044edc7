"""The page in a real browser, served by the real command over a real archive that is written meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import axe_core_python
import pyarrow as pa
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.drawn_archive import Drawn
from support.equipment import browser_program
from support.inline_stages import InlineStages
from support.served import HOSTILE, Served, as_process, copied, with_hostile_words

from malmm.model.demo.videos import draw_video
from malmm.operators.write import Answer, annotation_rows
from malmm.pipeline.archive.reviews import newest_reviews
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.ids import REPLAY
from malmm.pipeline.schema.prompts import Prompt
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.schema.tables import ANNOTATIONS

# A machine may be busy: what comes at all, may come late.
expect.set_options(timeout=30_000)

TOKEN = "correct-horse-battery"  # noqa: S105 - made up
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
AXE = (Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
PHONE = {"width": 390, "height": 844}

pytestmark = pytest.mark.needs("browser")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=browser_program(), args=list(ARGUMENTS))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def served(drawn: Drawn, folder: Path) -> Iterator[Served]:
    places = {str(Path(row["uri"]).parent) for row in drawn.reader.videos().to_pylist()} | {str(folder)}
    roots = [option for place in sorted(places) for option in ("--media-root", place)]
    with as_process(copied(drawn, folder), folder, *roots) as server:
        yield server


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    context = browser.new_context(base_url=served.address)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert not wrong


def accessible(page: Page) -> None:
    """No rule of axe is broken by what is shown."""
    page.evaluate(AXE)
    found = page.evaluate(
        "axe.run().then((told) => told.violations.map((each) => [each.id, each.nodes.map((n) => n.html)]))"
    )
    assert found == []


def until(page: Page, condition: str) -> None:
    """Wait for a condition; Playwright's own way of it needs what the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(f"Boolean({condition})"):
            return
        page.wait_for_timeout(100)
    raise TimeoutError(condition)


def only_once(drawn: Drawn) -> tuple[str, str, float]:
    """An object that one scene shows, its video and when."""
    name, video, scene = drawn.only_once()[0]
    return name, video, scene.start_s


def test_searching_and_playing_at_the_right_second(page: Page, drawn: Drawn) -> None:
    name, video, _ = only_once(drawn)
    page.goto("")
    expect(page.locator(".card")).to_have_count(3)
    accessible(page)
    page.fill("#query", f"a {name}")
    page.press("#query", "Enter")
    page.wait_for_url(re.compile("q="))
    expect(page.get_by_role("heading", name="Moments")).to_be_visible()
    first = page.locator(".card").first
    wanted = float(re.search(r"t=([\d.]+)", first.locator("a").get_attribute("href") or "").group(1))  # type: ignore[union-attr]
    accessible(page)
    first.locator("a").click()
    page.wait_for_url(re.compile(f"video/{video}"))
    until(
        page,
        "document.querySelector('video')?.currentTime > 0 || document.querySelector('video')?.readyState >= 3",
    )
    now = page.evaluate("document.querySelector('video').currentTime")
    assert wanted <= now < wanted + 20
    until(page, "document.querySelector('video').textTracks[0].cues?.length === 2")
    page.evaluate("document.querySelector('video').pause()")
    accessible(page)
    slot = page.locator(".strip button").nth(12)
    # Twenty frames of a segment are twenty slots, so none is merged here.
    expect(page.locator(".bank div")).to_have_count(40)
    slot.click()
    at = page.evaluate("document.querySelector('video').currentTime")
    assert at == pytest.approx(drawn_slot(drawn, video, 12), abs=3)
    expect(page.locator(".strip [aria-current=time]")).to_have_count(1)


def drawn_slot(drawn: Drawn, video: str, place: int) -> float:
    ids = drawn.reader.segments(video)["segment_id"].to_pylist()
    return float(drawn.reader.memory_rows(ids, ["start_s"])["start_s"][place].as_py())


def test_asking_and_playing_what_is_cited(page: Page, drawn: Drawn) -> None:
    name, video, _ = only_once(drawn)
    page.goto("#/ask")
    expect(page.locator("#question")).to_be_visible()
    accessible(page)
    page.fill("#question", f"Which way does the {name} move?")
    page.press("#question", "Enter")
    cited = page.locator(".cites button").first
    expect(cited).to_be_visible(timeout=60000)
    expect(page.locator(".answers")).not_to_have_attribute("aria-busy", "true", timeout=60000)
    assert page.locator(".said").first.inner_text().strip()
    picture = cited.get_by_role("img")
    assert "at 0:" in (picture.get_attribute("alt") or "")
    until(page, "document.querySelector('.cites img').naturalWidth > 0")
    cited.click()
    until(page, "document.querySelector('video')?.readyState >= 1")
    assert video in (page.locator("video").get_attribute("src") or "")
    minutes, seconds = re.findall(r"(\d+):(\d\d)", cited.inner_text())[0]
    until(page, f"document.querySelector('video').currentTime >= {60 * int(minutes) + int(seconds) - 1}")
    accessible(page)


def test_words_minus_words_and_a_filter_for_questions(page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("#/?q=a+circle&not=a+red+circle,+at+night")
    expect(page.locator(".card").first).to_be_visible()
    expect(page.locator("#without")).to_have_value("a red circle, at night")
    accessible(page)
    assert any("&not=a+red+circle&not=at+night&" in address for address in asked)
    page.fill("#without", "a star")
    page.press("#without", "Enter")
    page.wait_for_url(re.compile("not=a\\+star"))
    page.goto("#/ask?q=What+moves%3F&where=kamera+%3D+1")
    expect(page.get_by_text("no column 'kamera'")).to_be_visible()
    accessible(page)
    page.fill("#where", "start_s < 0")
    page.press("#where", "Enter")
    page.wait_for_url(re.compile("where=start_s"))
    expect(page.get_by_text("No moment that passes the filter is about this.")).to_be_visible(timeout=60000)


def test_the_keyboard_is_enough(page: Page) -> None:
    page.goto("")
    expect(page.locator(".card")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("a circle")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Moments")).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.card a')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".strip button").first).to_be_visible()
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator(".strip button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert (
        page.evaluate("[...document.querySelectorAll('.strip button')].indexOf(document.activeElement)") == 2
    )
    page.keyboard.press("Enter")
    expect(page.locator(".strip button").nth(2)).to_have_attribute("aria-current", "time")


def test_texts_are_reviewed_with_the_keyboard_alone(page: Page, served: Served) -> None:
    page.goto("#/review?prompt=caption")
    first = page.locator(".reviews li").first
    expect(first).to_be_visible()
    accessible(page)
    first.focus()
    page.keyboard.press("r")
    expect(first).to_contain_text("Right (local")
    second = page.locator(".reviews li").nth(1)
    expect(second).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("e")
    page.keyboard.press("Control+a")
    page.keyboard.type("a blue whale")
    accessible(page)
    page.keyboard.press("Control+Enter")
    expect(second).to_contain_text("Wrong, it should be: a blue whale (local")
    found = sorted((review.verdict, review.answer) for review in newest_reviews(served.reader).values())
    assert found[1] == ("wrong", "a blue whale")
    assert found[0][0] == "right"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(browser: Browser, served: Served, drawn: Drawn, scheme: str) -> None:
    context = browser.new_context(base_url=served.address, viewport=PHONE, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    shown = {
        "#/?q=a+circle": ".card",
        f"#/video/{sorted(drawn.scenes)[0]}": ".strip",
        "#/ask": "form",
        "#/archive": ".tiles",
        "#/review?state=all": ".reviews li",
    }
    for address, part in shown.items():
        page.goto(address)
        expect(page.locator(part).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        accessible(page)
    context.close()


def test_errors_and_emptiness_are_shown(page: Page) -> None:
    page.goto("#/?q=a+circle&until=2020-01-01")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    accessible(page)
    page.context.set_offline(True)
    page.fill("#query", "a star")
    page.press("#query", "Enter")
    expect(page.get_by_role("heading", name="The server does not answer")).to_be_visible()
    accessible(page)
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    # The filter is still there, until it is cleared.
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.locator(".card").first).to_be_visible()
    page.goto(f"#/video/{'0' * 24}")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible()


def test_nothing_is_fetched_from_elsewhere(page: Page, served: Served) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("#/?q=a+circle")
    expect(page.locator(".card img").first).to_be_visible()
    assert asked
    assert all(address.startswith(served.address) for address in asked)


def test_new_videos_appear_and_hostile_words_stay_words(page: Page, served: Served, folder: Path) -> None:
    page.goto("#/archive")
    expect(page.locator(".tile dd").first).to_have_text("3")
    draw_video(folder / "new.mp4", seconds=10.0, seed=(99, 1))
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        made = IndexConfig(
            sources=(str(folder / "new.mp4"),), archive=served.place, model="demo", segment_s=20.0
        )
        assert index(made).exit_code == 0
    expect(page.locator(".tile dd").first).to_have_text("4", timeout=15000)
    video = with_hostile_words(served.place, folder)
    page.goto(f"#/video/{video}")
    expect(page.locator("h1")).to_have_text(re.compile("onerror"))
    expect(page.locator("#whole")).to_have_text(HOSTILE)
    expect(page.locator("summary").first).to_contain_text("<script>")
    until(page, "document.querySelector('video').readyState >= 1")
    until(page, "document.querySelector('video').textTracks[0].cues?.length > 0")
    cue = page.evaluate("document.querySelector('video').textTracks[0].cues[0].getCueAsHTML().textContent")
    assert "<script>" in cue
    page.goto("#/?q=a+circle")
    expect(page.locator(".card").first).to_be_visible()
    assert page.locator("main script, main img[src=x]").count() == 0
    assert page.title() != "owned"


def test_a_file_that_is_gone_is_said_to_be(page: Page, served: Served) -> None:
    row = next(
        row
        for row in served.reader.videos().to_pylist()
        if row["uri"].endswith("new.mp4") or "onerror" in row["uri"]
    )
    Path(row["uri"]).rename(Path(row["uri"]).with_suffix(".away"))
    page.goto(f"#/video/{row['video_id']}")
    expect(page.get_by_role("heading", name="The video cannot be played")).to_be_visible()
    expect(page.get_by_text("not where it was when it was indexed")).to_be_visible()


def test_visitors_sign_in(browser: Browser, drawn: Drawn, tmp_path: Path) -> None:
    with as_process(drawn.place, tmp_path, MALMM_TOKEN=TOKEN) as server:
        context = browser.new_context(base_url=server.address)
        page = context.new_page()
        page.goto("")
        page.fill("#token", "wrong-horse-battery")
        page.press("#token", "Enter")
        expect(page.get_by_text("The token is wrong.")).to_be_visible()
        accessible(page)
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        expect(page.locator(".card")).to_have_count(3)
        page.reload()
        expect(page.locator(".card")).to_have_count(3)
        page.click("#leave")
        expect(page.locator("#token")).to_be_visible()
        context.close()


def test_timed_records_lie_along_the_video_one_by_one(page: Page, served: Served) -> None:
    archive = Archive.open(served.reader.root)
    row = archive.videos().to_pylist()[0]
    video = Video(**{name: row[name] for name in Video.__dataclass_fields__})
    kinds = {"type": "object", "properties": {"kind": {"enum": ["goal", "foul"]}}}
    events = Prompt.typed("events", "What happens, and when?", kinds, spans=True)
    said = [
        {"start_s": video.start_s, "end_s": video.start_s + 2, "kind": "goal", "supported": True},
        {"start_s": video.start_s + 3, "end_s": video.start_s + 4, "kind": "foul", "supported": False},
    ]
    answer = Answer(events, json.dumps(said, separators=(",", ":")))
    end_s = video.start_s + video.duration_s
    rows = annotation_rows(Carried(video, None, None), [answer], archive.recipe, mode=REPLAY, end_s=end_s)
    archive.add_annotations(pa.Table.from_pylist(rows, schema=ANNOTATIONS))
    page.goto(f"#/video/{video.video_id}")
    moments = page.locator("section[aria-labelledby=timed]")
    expect(moments.get_by_role("group", name="Moments along the video").get_by_role("button")).to_have_count(
        2
    )
    expect(moments.get_by_role("list")).to_contain_text("kind: goal")
    expect(moments.get_by_role("list")).to_contain_text("kind: foul (time not in memory)")
    expect(page.locator("section[aria-labelledby=prompts]")).to_contain_text("kind: goal")
    expect(page.locator("section[aria-labelledby=prompts]")).not_to_contain_text("start_s")
    expect(page.locator("video track[label=events]")).to_have_count(1)
    moments.get_by_role("button", name="0:03: kind: foul").click()
    expect(moments.locator("li button").nth(1)).to_have_attribute("aria-current", "time")
    accessible(page)
