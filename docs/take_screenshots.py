"""Take the pictures in docs/screenshots/: `make screenshots`. Needs Chromium, and some minutes.

Draws videos, indexes them with the demo model, serves them as ``malmm serve`` does, and opens each state of the page.
Pictures have a palette of 256 colours, so that they stay small.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

__all__ = ["main"]

INTO = Path(__file__).parent / "screenshots"
WIDE, HIGH, PHONE = (1280, 800), (1280, 1000), (390, 844)
_MALMM = (sys.executable, "-m", "malmm.jobs.cli")
_QUERY = "#/?q=a+red+circle+moving+right"


def main() -> None:
    """Take all of them."""
    expect.set_options(timeout=60_000)
    with _drawn() as folder, sync_playwright() as playwright:
        _malmm(folder, "demo-videos", "videos", "--count", "3", "--minutes", "1")
        first = ("--model", "demo", "--prompt", "first=What appears first?")
        # Twice, so that the archive has grown.
        for limit in (("--limit", "1"), ()):
            _malmm(folder, "index", "videos", "--archive", "archive", *first, *limit)
        # An archive without videos: those of a copy are forgotten.
        shutil.copytree(folder / "archive", folder / "new")
        for number in range(3):
            _malmm(folder, "forget", f"drawn-0-{number}.mp4", "--archive", "new")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        with _served(folder, "archive") as address:
            _of_an_archive(browser, address)
        with _served(folder, "new") as address:
            _take(browser, address, "new", "#/", lambda page: page.get_by_text("The archive is empty"))
        with _served(folder, "archive", "--token", "correct-horse-battery") as address:
            _take(browser, address, "sign-in", "#/", lambda page: page.locator("#token"))
        browser.close()


def _of_an_archive(browser: Browser, address: str) -> None:
    def cards(page: Page) -> Locator:
        expect(page.locator(".card img").first).to_be_visible()
        page.locator("#query").blur()
        return page.get_by_text("Spread of the best")

    def played(page: Page) -> Locator:
        page.get_by_text("a red circle moving right").first.wait_for()
        page.wait_for_timeout(3000)
        page.evaluate("document.querySelector('video').pause()")
        return page.locator(".bank")

    def asked(page: Page) -> Locator:
        page.fill("#question", "Which way does the red square move?")
        page.press("#question", "Enter")
        expect(page.locator(".cites button").first).to_be_visible()
        expect(page.locator(".answers")).not_to_have_attribute("aria-busy", "true")
        return page.locator(".said")

    def unanswered(page: Page) -> Locator:
        page.locator(".card").first.wait_for()
        page.context.set_offline(True)
        page.fill("#query", "a star")
        page.press("#query", "Enter")
        return page.get_by_text("The server does not answer")

    def held(page: Page) -> Locator:
        page.locator(".card").first.wait_for()
        page.route("**/api/search?*", lambda route: None)
        page.fill("#query", "a star")
        page.press("#query", "Enter")
        return page.locator(".ghost")

    def measured(page: Page) -> Locator:
        expect(page.locator(".tile dd").last).not_to_have_text("…")
        return page.get_by_text("done")

    _take(browser, address, "search", _QUERY, cards)
    _take(browser, address, "dark", _QUERY, cards, scheme="dark")
    _take(browser, address, "phone", _QUERY, cards, size=PHONE)
    _take(browser, address, "videos", f"{_QUERY}&by=video", cards)
    video = _first_video(browser, address)
    _take(browser, address, "video", f"{video}?t=40", played, size=HIGH)
    _take(browser, address, "video-phone", f"{video}?t=40", played, size=(390, 1300))
    _take(browser, address, "ask", "#/ask", asked)
    _take(browser, address, "review", "#/review?prompt=caption", lambda page: page.locator(".reviews li"))
    _take(browser, address, "archive", "#/archive", measured, size=HIGH)
    _take(
        browser,
        address,
        "empty",
        "#/?q=a+star&until=2020-01-01",
        lambda page: page.get_by_text("Nothing found"),
    )
    _take(browser, address, "error", "#/", unanswered)
    _take(browser, address, "loading", "#/", held)


def _first_video(browser: Browser, address: str) -> str:
    page = browser.new_page()
    page.goto(f"{address}{_QUERY}")
    found = page.locator(".card a").first.get_attribute("href") or ""
    page.close()
    return found.partition("?")[0]


def _take(
    browser: Browser,
    address: str,
    name: str,
    at: str,
    ready: Callable[[Page], Locator],
    *,
    size: tuple[int, int] = WIDE,
    scheme: str = "light",
) -> None:
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(f"{address}{at}")
    expect(ready(page).first).to_be_visible()
    page.wait_for_timeout(500)
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    taken.quantize(256, dither=Image.Dither.NONE).save(INTO / f"{name}.png", optimize=True)
    context.close()


@contextlib.contextmanager
def _drawn() -> Iterator[Path]:
    """A folder of always the same name, since pictures show it."""
    folder = Path(tempfile.gettempdir()) / "drawn"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def _served(folder: Path, archive: str, *options: str) -> Iterator[str]:
    command = [*_MALMM, "serve", "--archive", archive, "--port", "0", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        try:
            said = server.stdout.readline() if server.stdout else ""
            yield said.rsplit(" at ", 1)[1].strip()
        finally:
            server.terminate()


def _malmm(folder: Path, *options: str) -> None:
    subprocess.run([*_MALMM, *options], cwd=folder, check=True)  # noqa: S603


if __name__ == "__main__":
    main()
