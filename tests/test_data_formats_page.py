"""docs/howto/data-formats.md: every format that it shows loads with the lines that it shows."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from capo_lit.data.problem import Problem
from capo_lit.data.rows import ENDINGS
from capo_lit.data.sources import PromptSource
from tests.support.config_parser import fit_parser
from tests.support.doc_blocks import REPO, blocks

PAGE = REPO / "docs" / "howto" / "data-formats.md"
BLOCKS = {block.title: block for block in blocks(PAGE)}
CONFIGS = [title for title in BLOCKS if title.endswith(".yaml")]
SYSTEM = {"role": "system", "content": "You are a tutor."}
APPLES = "Tom has 3 apples and buys 4. How many?"
LOADED: Mapping[str, Sequence[Problem]] = {
    "plain.yaml": [Problem("times-1", "What is 17 · 23?", "391", "17 · 23 = 340 + 51 = 391")],
    "sums.yaml": [Problem("sums.csv:2", "Tom has 3 apples\nand buys 4. How many?", "7")],
    "array.yaml": [Problem("array.json:1", "1+1?", "2"), Problem("array.json:2", "2+2?", "4")],
    "verl.yaml": [Problem("0", APPLES, "7")],
    "messages.yaml": [
        Problem(
            "messages.jsonl:1",
            "What is 6 · 7?",
            "42",
            "6 · 7 = 42\n#### 42",
            chat=(SYSTEM, {"role": "user", "content": "What is 6 · 7?"}),
        )
    ],
    "conversational.yaml": [Problem("conversational.jsonl:1", "What is 6 · 7?", "42", "It is 42.")],
    "lists.yaml": [
        Problem("lists.jsonl:1", "Name a root of x² - 8x + 15.", "3 or 5", answers=("3", "5")),
    ],
    "roots.yaml": [
        Problem("roots.jsonl:1", "Solve x² - 8x + 15 = 0.", "3, 5", r"So $x=\boxed{3}$ or $x=\boxed{5}$."),
    ],
    "nested.yaml": [Problem("nested.parquet:1", "145 / 2?", "72.50"), Problem("packed.csv.gz:2", "1+1?", "2")],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page shows, and those that its Python writes."""
    folder = tmp_path_factory.mktemp("formats")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for title, block in BLOCKS.items():
            Path(title).write_text(block.text, encoding="utf-8")
            if block.language == "python":
                exec(compile(block.text, title, "exec"), {})
    return folder


parser = cache(fit_parser)


@pytest.mark.parametrize("title", CONFIGS)
def test_a_format_loads_with_the_lines_of_the_page(title: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    fit = parser()(["--config", str(REPO / "configs" / "quickstart.yaml"), "--config", title])
    assert fit.data.class_path == "capo_lit.PromptDataModule"
    sources = ArgumentParser(exit_on_error=False)
    sources.add_subclass_arguments(PromptSource, "source")
    problems: list[Problem] = []
    for split in yaml.safe_load(BLOCKS[title].text)["data"]["init_args"].keys() & {"train", "val"}:
        parsed = sources.parse_object({"source": fit.data.init_args[split].as_dict()})
        problems += sources.instantiate_classes(parsed).source.load()
    assert sorted(problems, key=lambda problem: problem.uid) == LOADED[title]


def test_the_page_names_every_ending_and_loads_every_file_it_shows() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"`{ending}`" in text for ending in ENDINGS)
    assert LOADED.keys() == set(CONFIGS)
    shown = [title for title in BLOCKS if title and not title.endswith((".yaml", ".py"))]
    assert len(shown) == len(CONFIGS) - 1, "all but what its Python writes"
    assert all(any(title in BLOCKS[config].text for config in CONFIGS) for title in shown)
