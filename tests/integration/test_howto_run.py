"""The how-to pages' commands run, with the files that the pages show, fewer steps and a policy without training."""

import json
import shutil
from pathlib import Path

import pytest

from tests.integration.doc_runs import clone_like, run, run_page, runnable
from tests.support.doc_blocks import REPO, commands
from tests.support.shipped_runs import DATA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DOCS = REPO / "docs"
PAGES = [
    *sorted((DOCS / "howto").glob("*.md")),
    *(DOCS / name for name in ("benchmarks.md", "paper-configs.md", "sweeps.md", "results/index.md")),
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a policy where the configs look for one, and the two runs that the notebooks read."""
    folder = clone_like(tmp_path_factory.mktemp("docs"))
    run(["capo", "prepare", "arithmetic", "--output", "runs/quickstart/sft/policy"], folder)
    for run_name, shipped in (("capo_majority", "capo"), ("grpo_rule", "grpo")):
        shutil.copytree(DATA / shipped, folder / "runs" / run_name)
    rows = folder / "data" / "gsm8k" / "test.jsonl"
    rows.parent.mkdir(parents=True)
    question = {"question": "Tom has 3 apples and buys 4. How many has he?", "answer": "3 + 4 = 7\n#### 7"}
    rows.write_text(json.dumps(question) + "\n")
    return folder


@pytest.fixture(scope="module")
def names(clone: Path) -> dict[str, str]:
    """FOLDER is what this prints; the runs here have 40 steps."""
    return {"FOLDER": run(["capo", "prepare", "smollm2"], clone).splitlines()[-1], "60:80": "20:39"}


@pytest.mark.nightly
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, clone: Path, names: dict[str, str], tmp_path: Path) -> None:
    folder = shutil.copytree(clone, tmp_path / "clone", symlinks=True)
    if page.stem == "paper-configs":  # trains what the other pages look at
        shutil.rmtree(folder / "runs" / "capo_majority")
    assert run_page(page, folder, names)


def test_no_page_is_forgotten() -> None:
    first = [DOCS / name for name in ("getting-started.md", "index.md")]
    assert {page for page in DOCS.rglob("*.md") if any(not c.needs_gpu for c in commands(page))} <= {*PAGES, *first}
