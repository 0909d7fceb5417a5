"""Metric names, and avg@k and pass@k against hand-worked numbers and binomial coefficients."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.errors import BatchError, ConfigError
from capo_lit.evaluation.at_k import AvgAtK, PassAtK
from capo_lit.evaluation.names import LM_EVAL, METRICS, SPECS, check_names, markdown_page, spec

NAN = float("nan")
FAMILIES = {"reward", "rollout", "critique", "outcome", "policy", "time", "val", "sft", "value"}


def table_rows() -> list[str]:
    lines = markdown_page().splitlines()
    return lines[lines.index("|---|---|---|---|") + 1 :]


def test_every_name_is_in_a_family_and_stands_under_itself() -> None:
    assert {name.split("/")[0] for name in METRICS} == FAMILIES
    assert all(METRICS[name].name == name and name.count("/") == 1 for name in METRICS)
    assert all(metric.unit and metric.meaning for metric in METRICS.values())


def test_names_are_defined_once_and_stand_in_the_table_once() -> None:
    assert len(SPECS) == len(METRICS)
    names = [line.split("|")[1].strip(" `") for line in table_rows()]
    assert names == [*METRICS, LM_EVAL.name]


def test_there_are_at_most_90_metrics() -> None:
    assert len(table_rows()) <= 90


def test_a_mean_says_what_it_divides_by_and_nothing_else_divides() -> None:
    for metric in (*SPECS, LM_EVAL):
        assert bool(metric.weight) == (metric.reduction == "mean"), metric.name
        assert metric.reduction == "max" or not metric.name.endswith("_max"), metric.name
        assert metric.reduction == "mean" or not metric.name.endswith(("_mean", "_frac", "_per_s")), metric.name


def test_the_page_of_metrics_is_what_the_command_writes() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    told = "stale; run `python -m capo_lit.evaluation.names > docs/metrics.md`"
    assert page.read_text(encoding="utf-8") == markdown_page(), told


def test_suffixes_say_the_unit() -> None:
    for name, metric in METRICS.items():
        if name.endswith("_frac"):
            assert metric.unit == "share", name
        if name.endswith("_s"):
            assert metric.unit == ("tokens/s" if name.endswith("tokens_per_s") else "s"), name


def test_validation_and_test_report_the_same() -> None:
    for name in (name for name in METRICS if name.startswith("val/")):
        other = name.replace("val/", "test/")
        assert spec(other) == replace(spec(name), name=other)
    with pytest.raises(ConfigError, match="test/loss"):
        spec("test/loss")


def test_the_progress_bar_shows_reward_wrong_steps_speeds_and_judge_time() -> None:
    shown = {name for name, metric in METRICS.items() if metric.prog_bar and not name.startswith("sft/")}
    assert shown == {
        "reward/outcome_mean",
        "critique/wrong_step_frac",
        "rollout/tokens_per_s",
        "policy/train_tokens_per_s",
        "time/critique_s",
    }


def test_table_has_a_cell_for_every_column() -> None:
    assert "| metric | unit | reduction | meaning |" in markdown_page().splitlines()
    lines = table_rows()
    assert all(line.count("|") == 5 for line in lines)
    assert "| `rollout/length_max` | tokens | max | longest response |" in lines
    assert any(line.startswith("| `rollout/length_mean` | tokens | mean over rollouts |") for line in lines)


def test_known_names_pass_through_and_unknown_ones_name_the_nearest() -> None:
    values = {"policy/loss": 1.0, "time/step_s": 2.0}
    assert check_names(values) is values
    assert spec("policy/loss").unit == "1"
    with pytest.raises(ConfigError, match=r"'policy/los'.*nearest: policy/loss"):
        check_names({"policy/loss": 1.0, "policy/los": 1.0})


def test_what_lm_eval_measures_has_the_tasks_own_names() -> None:
    assert spec("val/lm_eval/gsm8k/exact_match").name == "val/lm_eval/gsm8k/exact_match"
    with pytest.raises(ConfigError, match="lm_eval"):
        spec("test/lm_eval/gsm8k/exact_match")


def test_avg_at_k_by_hand() -> None:
    metric = AvgAtK()
    # 2/4 and 1/3 (one unknown) and no known one: mean of the two scored = (1/2 + 1/3) / 2 = 5/12
    metric.update(torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, NAN, 0.0], [NAN, NAN, NAN, NAN]]))
    assert metric.compute().item() == pytest.approx(5 / 12)
    assert (metric.problems.item(), metric.unknown.item(), metric.left_out.item()) == (2, 5, 1)


def test_pass_at_k_by_hand() -> None:
    metric = PassAtK(k=2)
    # c=1 of n=4: 1 - C(3,2)/C(4,2) = 1 - 3/6 = 1/2
    # c=1 of the n=3 known: 1 - C(2,2)/C(3,2) = 1 - 1/3 = 2/3
    # one known sample is too few for k=2: left out, although it is right
    metric.update(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, NAN, 1.0, 0.0], [1.0, NAN, NAN, NAN]]))
    assert metric.compute().item() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (metric.problems.item(), metric.unknown.item(), metric.left_out.item()) == (2, 4, 1)


@st.composite
def outcome_rows(draw: st.DrawFn) -> tuple[int, list[list[float]]]:
    samples = draw(st.integers(1, 12))
    k = draw(st.integers(1, samples))
    row = st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=samples, max_size=samples)
    return k, draw(st.lists(row, min_size=1, max_size=5))


@given(outcome_rows())
def test_pass_at_k_is_the_binomial_formula_over_known_outcomes(case: tuple[int, list[list[float]]]) -> None:
    k, rows = case
    scores = []
    for row in rows:
        known = [value for value in row if not math.isnan(value)]
        if len(known) >= k:
            scores.append(1 - math.comb(len(known) - int(sum(known)), k) / math.comb(len(known), k))
    metric = PassAtK(k)
    # Rows arrive in two updates: the split must not matter.
    for part in (rows[:1], rows[1:]):
        if part:
            metric.update(torch.tensor(part))
    if scores:
        assert metric.compute().item() == pytest.approx(sum(scores) / len(scores), abs=1e-6)
    else:
        assert math.isnan(metric.compute().item())
    assert metric.left_out.item() == len(rows) - len(scores)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=3, max_size=3), min_size=1, max_size=6))
def test_pass_at_1_is_avg_at_k(rows: list[list[float]]) -> None:
    average, single = AvgAtK(), PassAtK(1)
    average.update(torch.tensor(rows))
    single.update(torch.tensor(rows))
    assert average.compute().item() == pytest.approx(single.compute().item(), abs=1e-6)


def test_pass_at_k_with_many_samples_stays_exact() -> None:
    metric = PassAtK(64)
    metric.update(torch.tensor([[1.0] * 3 + [0.0] * 253]))
    expected = 1 - math.comb(253, 64) / math.comb(256, 64)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)


def test_nothing_measured_is_nan_not_zero() -> None:
    metric = PassAtK(1)
    metric.update(torch.full((2, 3), NAN))
    assert math.isnan(metric.compute().item())
    metric.update(torch.tensor([[1.0, 1.0, 1.0]]))
    assert metric.compute().item() == 1.0


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 samples per problem; expected at least 4"):
        PassAtK(4).update(torch.zeros(2, 3))
    with pytest.raises(ConfigError, match="k 0"):
        PassAtK(0)
    with pytest.raises(BatchError, match="shape"):
        AvgAtK().update(torch.zeros(3))
    with pytest.raises(BatchError, match="other than 0, 1 and NaN"):
        AvgAtK().update(torch.tensor([[0.5]]))
