"""Using the page of capo inspect in headless Chromium: filters, search, detail, keys, curves."""

from collections.abc import Iterator

import pytest

from tests.support.browser import Browser
from tests.support.viewer_page import chosen, count

pytestmark = pytest.mark.slow
MINUS = "\u2212"


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
    assert browser.js("byId('response').dataset.tint") == "reward"
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
