"""A page of capo inspect, taken apart as a browser's parser takes it."""

import base64
import gzip
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from capo_lit.cli.inspect import main
from tests.support.browser import Browser


class Page(HTMLParser):
    """The elements of a page as a browser's parser finds them, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and data.strip():
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    @property
    def index(self) -> dict[str, Any]:
        return dict(json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "index")))

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        chunks = [text for attributes, text in self.scripts if attributes.get("type") == "application/x-rollouts"]
        return [row for chunk in chunks for row in json.loads(gzip.decompress(base64.b64decode(chunk)))]


def inspect(tmp_path: Path, *args: Path | str) -> Page:
    out = tmp_path / "page.html"
    assert main([*map(str, args), "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def page_of(folder: Path, *args: str) -> str:
    """Write the page of a run into its folder; its URL."""
    out = folder / "page.html"
    assert main([str(folder), "--out", str(out), *args]) == 0
    return out.as_uri()


def chosen(browser: Browser, index: int) -> None:
    """Wait until a rollout is shown."""
    browser.until(f"list.chosen === {index} && document.querySelector('#response')")


def count(browser: Browser) -> int:
    """Rollouts in the list, once the filters have been applied."""
    browser.js("applyFilters()")
    browser.until("!byId('count').textContent.startsWith('searching')")
    return int(browser.js("byId('count').textContent").split()[0].replace(",", ""))
