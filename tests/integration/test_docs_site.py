"""The documents as a site: it builds strictly without network, asks for nothing when it is read, and its code runs."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from docs import picture
from tests.support import forked
from tests.support.browser import Browser
from tests.support.doc_blocks import PAGES, REPO, blocks

pytestmark = [pytest.mark.slow]

# Any connection, by whatever plugin, ends the build.
BUILD = """
import socket, sys
def refuse(*args):
    raise RuntimeError(f"a connection to {args[1:]}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""
CODE = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=REPO, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Loads(HTMLParser):
    """Collects what a browser fetches for a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        self.urls += [named[name] for name in ("src", "srcset", "poster", "data") if name in named and tag != "a"]
        if tag == "link" and named.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(named["href"])
        self.urls += re.findall(r"url\(([^)]*)\)", named.get("style", ""))
        if tag == "a":
            self.links.append(named.get("href", ""))


def pages(site: Path) -> Iterator[tuple[Path, Loads]]:
    for path in sorted(site.rglob("*.html")):
        loads = Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        yield path, loads


def test_the_site_builds_without_warnings_and_without_network(site: Path) -> None:
    built = {path.relative_to(site).with_suffix("").as_posix() for path, _ in pages(site)}
    sources = {path.relative_to(REPO / "docs").with_suffix("").as_posix() for path in (REPO / "docs").rglob("*.md")}
    assert sources <= built
    assert "mkdocs build --strict" in (REPO / "Makefile").read_text(), "make docs is this build"


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    assert len(list(pages(site))) > 20
    for path, loads in pages(site):
        for url in loads.urls:
            parts = urlsplit(url.strip("\"' "))
            assert parts.scheme in ("", "data"), f"{path.name} loads {url}"
            assert not parts.netloc, f"{path.name} loads {url}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        found = re.findall(r"url\(\s*[\"']?((?:https?:)?//[^)]*)\)", text) + re.findall(r"@import[^;]*//[^;]*", text)
        assert not found, f"{style.name} loads {found}"


def test_the_reference_holds_what_the_docstrings_say(site: Path) -> None:
    core = (site / "reference" / "core.html").read_text(encoding="utf-8")
    for name in ("split_steps", "tally", "settled", "token_rewards", "advantages", "policy_loss"):
        assert re.search(rf'id="capo_lit\.core\.\w+\.{name}"', core), name
    assert "asymmetric reward shaping" in core
    assert "<li><strong>line</strong>: a step ends after every newline." in core, "definitions are a list"


def test_equations_are_drawn_without_scripts(site: Path) -> None:
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    equations = re.findall(r'<div class="equation"><math .*?</math></div>', concepts)
    assert len(equations) == (REPO / "docs" / "concepts.md").read_text().count("```math")
    assert len(equations) >= 4
    assert "\\frac" not in concepts


def test_a_browser_asks_only_the_site_and_finds_by_search(site: Path, tmp_path: Path) -> None:
    handler = partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, Browser() as browser:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        for page in ("index.html?q=intersection", "concepts.html", "reference/core.html"):
            browser.call("Page.navigate", url=home + page)
            browser.until("document.readyState === 'complete' && document.querySelector('h1') !== null")
            if "?q=" in page:
                browser.until("document.querySelectorAll('.md-search-result__item').length > 2")
            browser.screenshot(tmp_path / "page.png")
        server.shutdown()
    assert browser.requests
    assert all(url.startswith((home, "data:", "blob:")) for url in browser.requests), browser.requests
    assert browser.errors == []


@pytest.mark.parametrize("page", CODE, ids=lambda page: page.relative_to(REPO).as_posix())
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """Files that the page shows are there; its Python runs from top to bottom in a process of its own."""
    code = []
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        if block.language == "python":
            code.append(block.text)
    (tmp_path / "notebooks").symlink_to(REPO / "notebooks")
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "capo").symlink_to(REPO / "notebooks" / "data" / "capo")
    process = forked.start(forked.script, "\n".join(code), tmp_path)
    assert forked.status(process, 300) == 0, (tmp_path / "log.txt").read_text()[-3000:]


def test_the_readmes_picture_is_drawn_from_the_shipped_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "PICTURE", tmp_path / "pictures" / "rollout.png")
    shipped = Image.open(REPO / "docs" / "pictures" / "rollout.png")
    assert Path(shipped.filename).stat().st_size < 150_000
    picture.main()
    drawn = Image.open(tmp_path / "pictures" / "rollout.png")
    assert drawn.size == pytest.approx(shipped.size, rel=0.15)  # fonts differ between machines
    assert len(set(drawn.convert("L").tobytes())) > 30  # drawn text and colours, and no blank page
