"""The notebooks run from the first cell to the last, are committed stripped, and show what they speak of."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = ("01_read_critiques", "02_credit_by_hand", "03_judge_quality", "04_compare_runs")
FIGURES = dict(zip(NAMES, (2, 1, 2, 4), strict=True))

pytestmark = pytest.mark.slow


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == list(NAMES)


# One in every run of the tests, all of them nightly: what differs is what they show.
@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.nightly) for name in NAMES[1:])])
def test_a_notebook_runs_headless_and_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == FIGURES[name]
    warnings = [output for output in outputs if output.get("name") == "stderr"]
    assert not warnings


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_stripped_and_defines_nothing(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    lines = [line.strip() for cell in code for line in cell.source.splitlines()]
    assert not [line for line in lines if line.startswith(("def ", "class "))], "logic belongs into capo_lit"


def test_the_shipped_records_are_small_and_name_no_machine() -> None:
    files = [path for path in (FOLDER / "data").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 600_000
    for path in files:
        content = path.read_bytes()
        assert not [name for name in ("home", "root", "tmp", "Users") if f"/{name}/".encode() in content], path.name
