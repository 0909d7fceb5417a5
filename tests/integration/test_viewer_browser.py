"""The page of capo inspect in headless Chromium: what it loads and runs, how it looks, how fast it is."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.support import forked
from tests.support.browser import Browser
from tests.support.http_world import wait_for
from tests.support.viewer_page import chosen, count, page_of
from tests.support.viewer_world import HOSTILE, hostile_run, long_run

pytestmark = pytest.mark.slow


def test_it_asks_for_nothing_but_itself(browser: Browser, small: str) -> None:
    browser.open(small)
    browser.js("choose(0)")
    chosen(browser, 0)
    browser.js("toggleCurves()")
    assert browser.requests == [small]


def test_served_it_is_the_same_and_ctrl_c_ends_it(browser: Browser, small: str, tmp_path: Path) -> None:
    run = Path(small.removeprefix("file://")).parent
    before = set(run.iterdir())
    process, log = forked.start(forked.capo, ["inspect", str(run), "--serve", "0"], tmp_path), tmp_path / "log.txt"
    try:
        assert wait_for(lambda: log.exists() and "http://127.0.0.1:" in log.read_text(), 30)
        url = next(word for word in log.read_text().split() if word.startswith("http://127.0.0.1:"))
        browser.open(url)
        assert count(browser) == 9
        assert browser.requests == [url]
        os.kill(process.pid, signal.SIGINT)
    finally:
        assert forked.status(process, 20) == 0
    assert set(run.iterdir()) == before  # nothing is written without --out


def test_what_models_wrote_does_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.open(page_of(hostile_run(tmp_path)))
    scripts = browser.js("document.scripts.length")
    browser.js("choose(0)")
    chosen(browser, 0)
    browser.choose("search", "<SCRIPT>window.pwned")
    assert count(browser) == 1
    browser.js("for (const box of document.querySelectorAll('details')) box.open = true")
    browser.until("document.querySelector('.numbers') && document.querySelectorAll('.block').length === 5")
    browser.js("nextTint()")
    browser.point(".token")
    assert browser.js("typeof window.pwned") == "undefined"
    assert browser.js("document.scripts.length") == scripts
    assert browser.js("document.querySelectorAll('img, svg[onload], [onerror], iframe').length") == 0
    shown = browser.js("[...document.querySelectorAll('.block')].map((block) => block.textContent)")
    # The problem, the reference, two replies; the record as JSON.
    assert shown[:4] == [HOSTILE] * 4
    assert json.loads(shown[4])["problem"] == HOSTILE
    assert browser.js("document.querySelector('.token').textContent") == HOSTILE
    assert browser.js("byId('detail').scrollWidth <= byId('detail').clientWidth")  # long words push nothing aside
    # Its right-to-left override ends with its element: what follows the run's name reads from the left.
    assert browser.js("getComputedStyle(document.querySelector('#what bdi')).unicodeBidi") == "isolate"


def test_a_script_that_got_in_would_not_run(small: str) -> None:
    with Browser() as browser:
        browser.open(small)
        browser.js(
            "(() => { const script = document.createElement('script'); script.textContent = 'window.pwned = 1'; "
            "document.body.append(script); document.body.insertAdjacentHTML('beforeend', "
            '\'<img src="data:," onerror="window.pwned = 2">\'); })()'
        )
        time.sleep(0.3)
        assert browser.js("typeof window.pwned") == "undefined"
        assert len(browser.errors) == 2  # the policy refused both
        assert all("Content Security Policy" in error for error in browser.errors)


def test_ten_thousand_rollouts_stay_fast(browser: Browser, tmp_path: Path) -> None:
    browser.open(page_of(long_run(tmp_path, 10_000)))
    assert browser.js("document.querySelectorAll('.row').length") < 40
    browser.js("byId('list').scrollTop = 1e9")
    browser.until("document.querySelector('#row-9999')")
    assert browser.js("document.querySelectorAll('.row').length") < 40
    for act in ("byId('sort').value = 'low'", "byId('from').value = 5"):
        browser.js(act)
        spent = browser.js("(async () => { const from = performance.now(); await applyFilters(); "
                           "return performance.now() - from; })()")  # fmt: skip
        assert spent < 500  # ms; about 20 on one core
    browser.choose("search", "rollout 19-499")
    assert count(browser) == 1
    browser.js("choose(list.shown[0])")
    chosen(browser, 9999)
    assert "rollout 19-499" in browser.js("byId('response').innerText")


def test_what_was_left_out_is_said(browser: Browser, tmp_path: Path) -> None:
    browser.open(page_of(long_run(tmp_path, 200), "--limit", "50"))
    assert browser.js("byId('left-out').innerText").startswith("150 rollouts left out. This page shows 50 of 200")


@pytest.mark.parametrize(
    ("name", "width", "dark"), [("light", 1280, False), ("dark", 1280, True), ("narrow", 400, False)]
)
def test_it_looks_alive_in_every_window(tmp_path: Path, small: str, name: str, width: int, dark: bool) -> None:
    with Browser(width, 800, dark) as browser:
        browser.open(small)
        for view, go in (("list", "1"), ("detail", "choose(1)"), ("curves", "toggleCurves()")):
            browser.js(go)
            browser.until({"list": "true", "detail": "document.querySelector('#response')", "curves": "true"}[view])
            image = Image.open(browser.screenshot(tmp_path / f"{name}-{view}.png")).convert("L")
            assert image.size == (width, 800)
            assert len(set(image.tobytes())) > 30  # shades of drawn text, and no blank page
            brightness = sum(image.tobytes()) / (width * 800)
            assert brightness < 80 if dark else brightness > 180
            assert browser.js("document.documentElement.scrollWidth <= innerWidth"), f"{view} is wider than the window"
        assert browser.errors == []


def test_a_narrow_window_shows_the_list_or_the_rollout(small: str) -> None:
    with Browser(400, 800) as browser:
        browser.open(small)
        assert browser.js("byId('detail').offsetWidth") == 0
        browser.js("document.querySelector('#row-1').click()")
        chosen(browser, 1)
        assert browser.js("byId('browse').offsetWidth") == 0
        browser.js("document.querySelector('.back').click()")
        assert browser.js("byId('browse').offsetWidth") > 300
        browser.js("document.querySelector('#row-1').click()")  # the same one again
        assert browser.js("byId('browse').offsetWidth") == 0
