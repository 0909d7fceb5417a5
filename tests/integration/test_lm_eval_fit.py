"""A fit on the built-in arithmetic with lm-eval every n steps: it trains as without, and resumes exactly."""

from pathlib import Path

import pytest
import yaml

from capo_lit.records.results import read_result
from tests.support.forked import REPO
from tests.support.killed import command, end, killed_at, weights_of

# In every run of the tests: tests/training/test_lm_eval_callback.py.
pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]

EVALUATING = {
    "tasks": [str(REPO / "tests" / "support" / "lm_eval_tasks" / name) for name in ("steps.yaml", "step_choice.yaml")],
    "every_n_steps": 3,
}


def evaluating(cwd: Path, model: Path) -> list[str]:
    """The command of a run in `cwd` with lm-eval."""
    overlay = cwd / "lm_eval.yaml"
    overlay.write_text(yaml.safe_dump({"lm_eval": EVALUATING}))
    return command(cwd / "run", model, "--config", str(overlay), "--ckpt_path", "last")


def logged(root: Path) -> dict[float, dict[str, float]]:
    """The lm-eval metrics of a run by optimizer step, over all its parts."""
    rows: dict[float, dict[str, float]] = {}
    for file in sorted(root.glob("csv/*/metrics.csv")):
        lines = [line.split(",") for line in file.read_text().splitlines()]
        for line in lines[1:]:
            row = dict(zip(lines[0], line, strict=True))
            values = {name: float(value) for name, value in row.items() if name.startswith("val/lm_eval/") and value}
            if values:
                rows[float(row["step"])] = values
    return rows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, initial: Path) -> Path:
    cwd = tmp_path_factory.mktemp("lm_eval")
    end(evaluating(cwd, initial), cwd)
    return cwd / "run"


def test_a_fit_with_lm_eval_every_n_steps_trains_as_without(whole: Path, untouched: Path) -> None:
    assert weights_of(whole) == weights_of(untouched)
    assert logged(untouched) == {}
    found = logged(whole)
    assert list(found) == [3.0, 6.0, 9.0]
    assert set(found[3.0]) == {
        "val/lm_eval/test_steps/avg_at_k", "val/lm_eval/test_steps/pass_at_k",
        "val/lm_eval/test_steps/unknown_frac", "val/lm_eval/test_step_choice/acc",
    }  # fmt: skip
    values, manifest = read_result(whole / "results" / "val-step=9.json")
    assert {name: values[name] for name in found[9.0]} == found[9.0]
    assert set(manifest["lm_eval"]["tasks"]) == {"test_steps", "test_step_choice"}


def test_killed_and_resumed_it_measures_what_the_whole_run_does(tmp_path: Path, initial: Path, whole: Path) -> None:
    words = evaluating(tmp_path, initial)
    killed_at("update", 7, words, tmp_path)
    end(words, tmp_path)
    assert weights_of(tmp_path / "run") == weights_of(whole)
    assert logged(tmp_path / "run")[9.0] == logged(whole)[9.0]
