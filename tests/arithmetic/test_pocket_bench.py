"""bench/pocket_judge.py without training: what it runs, what it skips, and its table."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from bench import pocket_judge
from capo_lit.records.schema import SCHEMA, SCHEMA_VERSION, file_name, write_atomic

ARMS = ("capo-rule", "capo-pocket_judge-majority", "grpo")


@pytest.fixture
def args() -> argparse.Namespace:
    return argparse.Namespace(votes=["majority"], k=3, temperature=0.5, rl_seeds=[0, 1], steps=2, jobs=2)


def fake_run(folder: Path, seed: int, judged: bool) -> None:
    """What a run of two steps leaves: evaluations at 0 and 2, and one rollout per step with a dropped carry."""
    (folder / "policy").mkdir(parents=True)
    (folder / "csv" / "version_0").mkdir(parents=True)
    names = ["step", "val/avg_at_k", "val/greedy_accuracy", "val/step_error_frac", "time/step_s"]
    rows = [names, ["0", "0.5", "0.5", "0.25", ""], ["1", "", "", "", "3"], ["2", f"{0.5 + seed / 4}", "1", "0", "3"]]
    (folder / "csv" / "version_0" / "metrics.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    text, spans = "12+8=10\n\n\\boxed{10}", [{"start": 0, "end": 9}, {"start": 9, "end": 20}]
    for step, flags in enumerate(([1.0, 0.0], [1.0, 1.0])):
        row = {"schema_version": SCHEMA_VERSION, "step": step, "problem": "12+8?", "text": text}
        if judged:
            row |= {"spans": spans, "step_error": flags}
        write_atomic(pa.Table.from_pylist([row], schema=SCHEMA), folder / "records" / file_name(step))


def test_arms_run_once_per_seed_from_one_policy_and_the_table_spreads_over_seeds(
    tmp_path: Path, args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def fit(config: Sequence[str], folder: Path, policy: Path, seed: int, flags: Sequence[str]) -> float:
        assert policy == tmp_path / "start"
        assert list(flags[-4:]) == ["--trainer.max_steps", "2", "--ckpt_path", "last"]
        started.append(folder.name)
        fake_run(folder, seed, judged="grpo" not in folder.name)
        return 1.0

    monkeypatch.setattr(pocket_judge, "fit", fit)
    fake_run(tmp_path / "grpo-seed1", 1, judged=False)  # finished in an earlier call
    table = pocket_judge.compare(tmp_path, tmp_path / "start", tmp_path / "judge", args)
    expected = {f"{arm}-seed{seed}" for arm in ARMS for seed in (0, 1)} - {"grpo-seed1"}
    assert sorted(started) == sorted(expected)
    lines = table.splitlines()
    # avg@8 at step 2 is 0.5 and 0.75: mean 0.625, standard deviation 0.25 / sqrt(2). The judge flags the wrong step of
    # both rollouts, and the right one of the second: 2 of 3 flags.
    assert "| CAPO, pocket judge, majority | 0 | 0.500 ± 0.000 | 0.500 ± 0.000 | 0.250 ± 0.000 |  |  | 0 |" in lines
    assert (
        "| CAPO, pocket judge, majority | 2 | 0.625 ± 0.177 | 1.000 ± 0.000 | 0.000 ± 0.000 "
        "| 0.667 ± 0.000 | 1.000 ± 0.000 | 6 |"
    ) in lines
    assert "| GRPO | 2 | 0.625 ± 0.177 | 1.000 ± 0.000 | 0.000 ± 0.000 |  |  | 6 |" in lines

    pocket_judge.compare(tmp_path, tmp_path / "start", tmp_path / "judge", args)
    assert len(started) == len(expected)


def test_a_run_that_fails_ends_the_comparison(
    tmp_path: Path, args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object) -> float:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pocket_judge, "fit", fit)
    with pytest.raises(RuntimeError, match="no memory"):
        pocket_judge.compare(tmp_path, tmp_path, tmp_path, args)


def test_critiques_are_held_back_only_where_fewer_may_settle_the_vote(args: argparse.Namespace) -> None:
    args.votes = ["majority", "intersection", "union", "average", "greedy"]
    found = pocket_judge.plans(Path("judge"), args)
    settings = {}
    for name, (_, flags) in found.items():
        words = {key.rpartition("init_args.")[2]: value for key, value in zip(flags[::2], flags[1::2], strict=True)}
        settings[name.rpartition(", ")[2]] = (
            words.get("k"),
            words.get("first_wave"),
            words.get("sampling.temperature"),
        )
    # Two of three make a majority, and one that clears a step ends an intersection.
    assert settings["majority"] == ("3", "2", "0.5")
    assert settings["intersection"] == ("3", "1", "0.5")
    assert settings["union"] == settings["average"] == ("3", "null", "0.5")
    assert settings["greedy"] == ("1", "null", "0")
    assert settings["rule"] == settings["GRPO"] == (None, None, None)
