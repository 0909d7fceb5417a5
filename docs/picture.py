"""The README's picture: one critiqued rollout as the page of `capo inspect` shows it, in headless Chromium.

From the top of a clone: `python -m docs.picture`. It writes docs/pictures/rollout.png from the shipped records.
"""

import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from capo_lit.records.viewer.build import build, find
from tests.support.browser import Browser

REPO = Path(__file__).resolve().parents[1]
PICTURE = REPO / "docs" / "pictures" / "rollout.png"
# The answer is right though two steps are not, and the critiques do not all agree.
RUN, STEP, ROW = REPO / "notebooks" / "data" / "capo", 13, 36
ROLLOUTS = 1000  # on the page, at most
WIDTH, MARGIN = 1060, 16  # CSS px; GitHub shows it about 840 wide
SCALE = 2  # pixels per CSS px, for sharp letters
COLOURS = 64
# What is cut away says nothing about credit. Problem and response go to the left, votes and two critiques to the right.
_ARRANGE = """((width) => {
  const box = byId("detail"), kept = ["Problem", "Response", "Votes", "Critiques"];
  byId("browse").hidden = true;
  byId("rollouts").style.gridTemplateColumns = `${width}px`;
  box.querySelectorAll(".bar, .facts, .group, details, label, .legend .muted").forEach((part) => part.remove());
  const named = Object.fromEntries([...box.querySelectorAll("section.part")].map((part) => [part.ariaLabel, part]));
  Object.values(named).filter((part) => !kept.includes(part.ariaLabel)).forEach((part) => part.remove());
  named.Critiques = box.querySelector(".critiques").parentElement;
  box.querySelectorAll(".critique:nth-child(n + 3)").forEach((part) => part.remove());
  const columns = document.createElement("div");
  Object.assign(columns.style, {display: "grid", gridTemplateColumns: "auto max-content", gap: "0 28px"});
  for (const side of [["Problem", "Response"], ["Votes", "Critiques"]]) {
    const column = document.createElement("div");
    column.append(...side.map((name) => named[name]));
    columns.append(column);
  }
  box.append(columns);
  const from = box.querySelector("h2").getBoundingClientRect(), to = columns.getBoundingClientRect();
  return [from.left, from.top, to.right, to.bottom];
})"""


def main() -> None:
    """Write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(build([find(RUN, (STEP, STEP))], ROLLOUTS, iter), encoding="utf-8")
        png = _screenshot(page)
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    PICTURE.parent.mkdir(exist_ok=True)
    image.save(PICTURE, optimize=True)


def _screenshot(page: Path) -> bytes:
    with Browser(WIDTH, 1600) as browser:
        browser.open(page.as_uri())
        browser.js(f"choose({ROW})")
        browser.until(f"list.chosen === {ROW} && document.querySelector('#response')")
        left, top, right, bottom = browser.js(f"{_ARRANGE}({WIDTH})")
        size = {"width": right - left + 2 * MARGIN, "height": bottom - top + 2 * MARGIN}
        clip = {"x": left - MARGIN, "y": top - MARGIN, **size, "scale": SCALE}
        answer = browser.call("Page.captureScreenshot", format="png", clip=clip)
    return base64.b64decode(answer["data"])


if __name__ == "__main__":
    main()
