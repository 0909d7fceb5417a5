"""The page of capo inspect in headless Chromium: what it loads, runs, shows and does."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from capo_lit.inspect_cli import main
from tests.browser import Browser
from tests.viewer_world import HOSTILE, hostile_run, long_run, small_run

pytestmark = pytest.mark.slow
MINUS = "\u2212"


def page_of(folder: Path, *args: str) -> str:
    out = folder / "page.html"
    assert main([str(folder), "--out", str(out), *args]) == 0
    return out.as_uri()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page_of(small_run(tmp_path_factory.mktemp("small")))


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened
        assert opened.errors == []


def chosen(browser: Browser, index: int) -> None:
    """Wait until a rollout is shown."""
    browser.until(f"list.chosen === {index} && document.querySelector('#response')")


def count(browser: Browser) -> int:
    """Rollouts in the list, once the filters have been applied."""
    browser.js("applyFilters()")
    browser.until("!byId('count').textContent.startsWith('searching')")
    return int(browser.js("byId('count').textContent").split()[0].replace(",", ""))


def test_it_asks_for_nothing_but_itself(browser: Browser, small: str) -> None:
    browser.open(small)
    browser.js("choose(0)")
    chosen(browser, 0)
    browser.js("toggleCurves()")
    assert browser.requests == [small]


def test_served_it_is_the_same_and_ctrl_c_ends_it(browser: Browser, small: str) -> None:
    run = Path(small.removeprefix("file://")).parent
    code = "import sys; from capo_lit.inspect_cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, str(run), "--serve", "0"]
    before = set(run.iterdir())
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=run) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        assert url.startswith("http://127.0.0.1:")
        browser.open(url)
        assert count(browser) == 9
        assert browser.requests == [url]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
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


# Each of three steps: right with a wrong step; wrong, its critiques split; unknown, both critiques abstained.
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"outcome": "right"}, 3),
        ({"outcome": "unknown"}, 3),
        ({"wrong": "yes"}, 6),
        ({"wrong": "no"}, 0),
        ({"wrong": "unjudged"}, 3),
        ({"agree": "disagree"}, 3),
        ({"abstained": "yes"}, 3),
        ({"abstained": "no", "outcome": "wrong"}, 3),
        ({"from": "1", "to": "1"}, 3),
        ({"from": "1", "outcome": "right"}, 2),
        ({"search": "A GUESS"}, 3),  # in critiques, in any case
        ({"search": "parse"}, 3),  # why a critique abstained
        ({"search": "what is 1+1?"}, 3),  # in problems
        ({"search": "1+1=2"}, 6),  # in responses
        ({"search": "toy/1", "from": "2"}, 1),
        ({"search": "no such words"}, 0),
    ],
)
def test_filters_and_search(browser_once: Browser, fields: dict[str, str], expected: int) -> None:
    for field, value in fields.items():
        browser_once.choose(field, value)
    assert count(browser_once) == expected
    browser_once.js("byId('clear').click()")
    assert count(browser_once) == 9


@pytest.fixture(scope="module")
def browser_once(small: str) -> Iterator[Browser]:
    with Browser() as opened:
        opened.open(small)
        yield opened
        assert opened.errors == []


def test_a_rollout_in_detail(browser: Browser, small: str) -> None:
    browser.open(small + "#rollout-1")
    chosen(browser, 1)
    text = browser.js("byId('detail').innerText")
    for words in (
        "What is 0+1?",
        "✗ wrong",
        "the second step is a guess",
        "all fine",
        "2 critiques voted, 0 abstained",
    ):
        assert words in text
    assert browser.js("[...document.querySelectorAll('.step')].map((step) => step.className)") == [
        "step right",
        "step wrong",
    ]
    rows = browser.js("[...document.querySelectorAll('.votes tr')].map((r) => [...r.cells].map((c) => c.innerText))")
    assert rows == [
        ["Step", "0", "1"],
        ["Critique 0", "✓", "✗ wrong"],
        ["Critique 1", "✓", "✓"],
        ["Verdict", "✓ right", "✗ wrong"],
        ["Mean reward", "2", "1"],
        ["Mean advantage", "+0.50", f"{MINUS}1.50"],
    ]
    browser.point("#step-1 .token")
    tip = browser.js("byId('tip').innerText")
    assert f"advantage {MINUS}1.5000" in tip
    assert "reward 1" in tip
    # The strongest colour of the rollout, and below 0.
    assert browser.js("document.querySelector('#step-1 .token').style.getPropertyValue('--share')") == "62%"
    assert browser.js("document.querySelector('#step-1 .token').classList.contains('less')")
    facts = dict(zip(*[browser.js(f"[...document.querySelectorAll('.facts {tag}')].map((e) => e.innerText)")
                       for tag in ("dt", "dd")], strict=True))  # fmt: skip
    assert facts["Policy version"] == "0"
    assert facts["Sampling"] == "0.25 s"
    assert facts["Judging"] == "0.5 s (slowest critique)"


def test_keys_alone_go_everywhere(browser: Browser, small: str) -> None:
    browser.open(small)
    browser.key("j")
    chosen(browser, 0)
    browser.key("j")
    chosen(browser, 1)
    browser.key("k")
    chosen(browser, 0)
    browser.js("byId('list').focus()")
    browser.key("End")
    chosen(browser, 8)
    assert browser.js("byId('list').getAttribute('aria-activedescendant')") == "row-8"
    browser.key("Home")
    chosen(browser, 0)
    browser.key("Enter")
    assert browser.js("document.activeElement.id") == "detail"
    browser.js("byId('response').focus()")
    browser.key("ArrowRight")
    assert browser.js("document.querySelector('.token.current').dataset.at") == "0"
    assert not browser.js("byId('tip').hidden")
    browser.key("t")
    assert browser.js("byId('response').dataset.tint") == "advantage"
    browser.key("/")
    assert browser.js("document.activeElement.id") == "search"
    browser.key("j")  # a letter now
    assert browser.js("byId('search').value") == "j"
    browser.key("Escape")
    assert browser.js("document.activeElement.id") == "list"
    browser.key("c")
    assert not browser.js("byId('curves').hidden")
    browser.key("?")
    assert browser.js("byId('keys').open")


def test_curves_are_drawn_and_lead_to_their_rollouts(browser: Browser, small: str) -> None:
    browser.open(small + "#curves")
    titles = browser.js("[...document.querySelectorAll('.chart b:first-child')].map((b) => b.innerText).slice(0, 1)")
    assert titles == ["Accuracy, avg@k"]
    assert browser.js("document.querySelectorAll('.chart').length") == 3
    browser.js("document.querySelectorAll('.chart svg')[2].focus()")
    browser.key("ArrowRight")
    browser.key("ArrowRight")
    assert browser.js("document.querySelectorAll('.values')[2].innerText").split() == ["step", "2:", "90"]
    browser.key("Enter")
    # Curves are logged after optimizer step 2; the rollouts that led to it are those of version 1, of step 1.
    browser.until("byId('curves').hidden")
    assert browser.js("[byId('from').value, byId('to').value]") == ["1", "1"]
    assert count(browser) == 3


def test_the_overview_counts_and_leads_to_what_it_counts(browser: Browser, small: str) -> None:
    browser.open(small)
    cards = browser.js("[...document.querySelectorAll('.overview button')].map((b) => b.innerText.split('\\n'))")
    assert [int(card[0]) for card in cards[:-2]] == [3, 3, 3, 6, 3, 3, 3]
    assert cards[4][1].startswith("right answers with a step called wrong")
    for number, card in enumerate(cards[:-2]):
        browser.js(f"document.querySelectorAll('.overview button')[{number}].click()")
        assert count(browser) == int(card[0]), card


def test_orders(browser: Browser, small: str) -> None:
    browser.open(small)
    for order, first in (("disagreement", 1), ("size", 0), ("high", 2), ("low", 0), ("wrong", 0), ("tokens", 0)):
        browser.choose("sort", order)
        count(browser)
        assert browser.js("list.shown[0]") == first, order
    assert browser.js("list.shown.length") == 9


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
