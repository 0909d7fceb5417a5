"""The numbers of a report, worked by hand, from run folders on disk."""

import pytest

from capo_lit.core.errors import DataError
from capo_lit.records.report.compute import UNITS, accuracy_at, cost, ledger, per_unit
from capo_lit.records.report.stats import spread
from capo_lit.records.report.sweep_table import job_rows
from capo_lit.records.report.systems import (
    CRITIQUES,
    VOTES,
    WEIGHTS,
    band,
    best_baseline,
    compared,
    final,
    finals,
    starts,
    systems_of,
)
from capo_lit.records.runs import find_runs, read_run, read_runs
from tests.support.run_folders import CAPO, GRPO, STEPS, curves, judged, write_run, write_sweep

TOKENS, GENERATED, MINUTES = UNITS


@pytest.fixture
def sweep(tmp_path):
    return read_runs(find_runs([write_sweep(tmp_path / "sweep")]))


def systems(*folders, labels=()):
    return systems_of(read_runs(find_runs(folders), labels))


def test_runs_of_a_sweep_are_systems_by_experiment_and_broken_ones_are_named(sweep):
    assert [run.system for run in sweep] == ["capo"] * 3 + ["grpo_rule"] * 3 + ["capo", "capo_union"]
    assert [run.seed for run in sweep] == [1, 2, 3, 1, 2, 3, 4, 5]
    assert [bool(run.trouble) for run in sweep] == [False] * 6 + [True] * 2
    assert sweep[6].trouble == "unfinished: step 2 of 4"
    assert sweep[7].trouble == "failed at step 0: exit status 1: no such judge"
    assert [(s.name, len(s.runs)) for s in systems_of(sweep)] == [("capo", 3), ("grpo_rule", 3)]


def test_words_of_a_sweep_that_jobs_do_not_share_are_in_the_name(tmp_path):
    for job, rate in enumerate(("1e-4", "2e-4")):
        words = ["experiment=capo", f"model.init_args.optim.lr={rate}", "scale=small", "+trainer.max_steps=4"]
        write_run(tmp_path / str(job), CAPO, curves([0.1]), 0, words)
    assert [s.name for s in systems(tmp_path)] == ["capo lr=1e-4", "capo lr=2e-4"]


def test_an_experiment_that_hydra_chose_by_default_names_the_system(tmp_path):
    folder = write_run(tmp_path / "0", CAPO, curves([0.1]), 0, ["seed=0"])
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {experiment: capo_n8}}}")
    assert [s.name for s in systems(tmp_path)] == ["capo_n8"]


def test_without_a_sweep_runs_of_equal_configs_are_one_system(tmp_path):
    for seed in (0, 1):
        for name, config in (("capo", CAPO), ("grpo", GRPO)):
            write_run(tmp_path / f"{name}-seed{seed}", config, curves([0.1]), seed)
    assert {s.name: [run.seed for run in s.runs] for s in systems(tmp_path)} == {"capo": [0, 1], "grpo": [0, 1]}


def test_other_systems_in_folders_of_one_name_are_told_apart_by_their_parents(tmp_path):
    for parent, config in (("a", CAPO), ("b", GRPO)):
        write_run(tmp_path / parent / "run", config, curves([0.1]))
    assert [s.name for s in systems(tmp_path)] == ["a/run", "b/run"]
    write_run(tmp_path / "c-seed1", CAPO, curves([0.1]))
    write_run(tmp_path / "c-seed2", GRPO, curves([0.1]))
    names = [s.name for s in systems(tmp_path / "c-seed1", tmp_path / "c-seed2")]
    assert names == [str(tmp_path / "c-seed1"), str(tmp_path / "c-seed2")]


def test_labels_come_first_and_then_the_label_file(tmp_path):
    one, two = (write_run(tmp_path / name, CAPO, curves([0.1]), 0, ["experiment=x"]) for name in ("one", "two"))
    (two / "label.txt").write_text("from the file\n")
    assert [s.name for s in systems(tmp_path)] == ["x", "from the file"]
    assert [s.name for s in systems(tmp_path, labels=[("mine", "*/one")])] == ["mine", "from the file"]
    assert [s.name for s in systems(one, two, labels=[("all", "t*"), ("all", "one")])] == ["all"]


def test_a_run_that_a_callback_stopped_and_that_exported_its_policy_is_whole(tmp_path):
    folder = write_run(tmp_path / "run", CAPO, curves([0.1], steps=2))
    assert not systems(folder)
    (folder / "policy").mkdir()
    assert len(systems(folder)) == 1


def test_a_folder_without_runs_is_an_error_and_each_run_counts_once(tmp_path):
    with pytest.raises(DataError, match=r"metrics\.csv"):
        find_runs([tmp_path])
    folder = write_run(tmp_path / "runs" / "10", CAPO, curves([0.1]))
    other = write_run(tmp_path / "runs" / "9", CAPO, curves([0.1]))
    assert find_runs([tmp_path, folder]) == [other, folder]


def test_means_over_seeds(sweep):
    capo, grpo = systems_of(sweep)
    # 0.5, 0.6, 0.7: mean 0.6, sd 0.1
    assert finals(capo, "val/avg_at_k") == [(1, 0.5), (2, 0.6), (3, 0.7)]
    assert final(capo, "val/avg_at_k") == spread([0.5, 0.6, 0.7])
    assert (final(capo, "val/avg_at_k").mean, final(capo, "val/avg_at_k").sd) == pytest.approx((0.6, 0.1))
    assert starts(capo, "val/avg_at_k").mean == pytest.approx(0.2)
    assert final(grpo, "critique/wrong_step_frac") is None
    points = band(grpo, "val/avg_at_k")
    assert [step for step, _ in points] == [0, 2, 4]
    assert (points[2][1].mean, points[2][1].sd, points[2][1].n) == pytest.approx((0.45, 0.05, 3))


def test_the_end_of_a_training_metric_is_its_last_tenth(tmp_path):
    config = {**CAPO, "trainer": {**CAPO["trainer"], "max_steps": 20}}
    rising = {step: float(step) for step in range(1, 21)}
    values = curves([0.1], steps=20, **{"reward/token_mean": rising, "val/avg_at_k": rising})
    (system,) = systems(write_run(tmp_path / "run", config, values))
    assert final(system, "reward/token_mean").mean == pytest.approx(19.5)  # of 19 and 20
    assert final(system, "val/avg_at_k").mean == 20.0


def test_curves_are_averaged_only_where_all_runs_have_a_value(tmp_path):
    for seed, values in enumerate(({0: 0.1, 2: 0.2, 4: 0.3}, {0: 0.3, 4: 0.5})):
        write_run(tmp_path / f"run-seed{seed}", CAPO, curves([], **{"val/avg_at_k": values}), seed)
    (system,) = systems(tmp_path)
    assert [(step, value.mean) for step, value in band(system, "val/avg_at_k")] == [
        (0, pytest.approx(0.2)),
        (4, pytest.approx(0.4)),
    ]


def test_the_best_baseline_is_trained_by_outcomes_alone(tmp_path, sweep):
    assert best_baseline(systems_of(sweep)).name == "grpo_rule"
    for name, config, end in (("weak", GRPO, 0.3), ("strong", {**GRPO, "policy_kind": 2}, 0.5), ("capo", CAPO, 0.9)):
        write_run(tmp_path / name, config, curves([0.1, 0.2, end], judge=config is CAPO))
    assert best_baseline(systems(tmp_path)).name == "strong"


def test_votes_are_compared_at_one_k_and_greedy(tmp_path):
    for vote, k in (("union", 4), ("intersection", 4), ("greedy", 1), ("intersection", 8), ("intersection", 2)):
        write_run(tmp_path / f"{vote}{k}", judged(k, vote), curves([0.1]))
    write_run(tmp_path / "grpo", GRPO, curves([0.1], judge=False))
    found = systems(tmp_path)
    assert [[s.name for s in group] for group in compared(found, VOTES)] == [["greedy1", "intersection4", "union4"]]
    assert [[s.name for s in group] for group in compared(found, CRITIQUES)] == [
        ["intersection2", "intersection4", "intersection8"]
    ]
    assert compared(found, WEIGHTS) == []


def test_weights_are_compared_where_nothing_else_differs(tmp_path):
    for w_process in (5.0, 0.1, 1.0):
        write_run(tmp_path / f"w{w_process}", judged(w_process=w_process), curves([0.1]))
    write_run(tmp_path / "other", judged(k=2, w_process=2.0), curves([0.1]))
    assert [[s.name for s in group] for group in compared(systems(tmp_path), WEIGHTS)] == [["w0.1", "w1.0", "w5.0"]]


def test_numbers_of_outcome_critiques_are_compared_too(tmp_path):
    for n in (8, 2):
        outcomes = {"class_path": "GenORM", "init_args": {"k": n, "engine": {"class_path": "E"}}}
        write_run(tmp_path / f"n{n}", {**GRPO, "rollout": {"outcomes": outcomes}}, curves([0.1], judge=False))
    assert [[s.name for s in group] for group in compared(systems(tmp_path), CRITIQUES)] == [["n2", "n8"]]


def test_compute_is_added_up_over_steps(sweep):
    capo, grpo = systems_of(sweep)
    # 100 sampled, 300 read and 100 written a step; 6 s a step
    assert cost(capo.runs[0], TOKENS) == pytest.approx({0: 0, 1: 5e-4, 2: 1e-3, 3: 1.5e-3, 4: 2e-3})
    assert cost(capo.runs[0], GENERATED)[4] == pytest.approx(8e-4)
    assert cost(grpo.runs[0], TOKENS)[4] == cost(grpo.runs[0], GENERATED)[4] == pytest.approx(4e-4)
    assert cost(grpo.runs[0], MINUTES)[4] == pytest.approx(0.4)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("sums", [True, False])
def test_report_and_sweep_agree_on_tokens_whatever_the_number_of_processes(tmp_path, devices, sums):
    """A log with rollout/count has sums over processes; an older one means over them."""
    config = {**CAPO, "trainer": {**CAPO["trainer"], "devices": devices}}
    share = 1 if sums else devices
    steps = range(1, STEPS + 1)
    counts = {"rollout/count": dict.fromkeys(steps, 8.0)} if sums else {}
    values = curves([0.1], **counts, **{
        "rollout/tokens": dict.fromkeys(steps, 100.0 / share),
        "critique/judge_prompt_tokens": dict.fromkeys(steps, 300.0 / share),
        "critique/judge_completion_tokens": dict.fromkeys(steps, 100.0 / share),
        "critique/judge_tokens_run": {step: 400.0 * step / share for step in steps},
    })  # fmt: skip
    folder = write_run(tmp_path / "0", config, values, words=["experiment=capo"])
    (row,) = job_rows(tmp_path)
    told = ledger(read_run(folder))
    assert (row["rollout_tokens"], row["judge_tokens"]) == (400, 1600)
    assert (told.read, told.written) == (1200, 400)
    assert told.per_trained_token == 4.0


def test_tokens_are_of_all_processes_and_seconds_are_not(tmp_path):
    config = {**GRPO, "trainer": {**GRPO["trainer"], "devices": 2, "num_nodes": 3}}
    (system,) = systems(write_run(tmp_path / "run", config, curves([0.1], judge=False)))
    assert cost(system.runs[0], TOKENS)[4] == pytest.approx(6 * 4e-4)
    assert cost(system.runs[0], MINUTES)[4] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("trainer", "lost"),
    [({"log_every_n_steps": 50}, None), ({"log_every_n_steps": None}, None), ({"log_every_n_steps": 1}, 3)],
)
def test_compute_that_the_log_does_not_tell_is_not_guessed(tmp_path, trainer, lost):
    values = curves([0.1, 0.2, 0.3], judge=False)
    values["rollout/tokens"].pop(lost, None)
    config = {**GRPO, "trainer": {**GRPO["trainer"], **trainer}}
    (system,) = systems(write_run(tmp_path / "run", config, values))
    assert cost(system.runs[0], TOKENS) is None
    assert per_unit([system], TOKENS) == (0.0, [])


def test_a_judge_whose_tokens_are_not_logged_makes_the_cost_unknown(tmp_path):
    (system,) = systems(write_run(tmp_path / "run", CAPO, curves([0.1], judge=False)))
    assert cost(system.runs[0], TOKENS) is None
    assert cost(system.runs[0], MINUTES) is not None
    assert ledger(system.runs[0]) is None


def test_systems_at_the_budget_that_all_reached(sweep):
    capo, grpo = systems_of(sweep)
    budget, rows = per_unit([capo, grpo], TOKENS)
    # GRPO's runs end at 400 tokens. CAPO spends 1000 until step 2, from 0.2 to 0.3: at 400 it is at 0.24.
    assert budget == pytest.approx(4e-4)
    assert [row.system.name for row in rows] == ["capo", "grpo_rule"]
    assert rows[0].at_budget.mean == pytest.approx(0.24)
    assert rows[1].at_budget.mean == pytest.approx(0.45)
    # (0.6 - 0.2) / 2000 tokens; (0.45 - 0.2) / 400 tokens
    assert [row.gain.mean for row in rows] == pytest.approx([200.0, 625.0])
    assert [row.spent.mean for row in rows] == pytest.approx([2e-3, 4e-4])


def test_accuracy_between_evaluations_is_linear():
    points = [(0.0, 0.2), (10.0, 0.4), (30.0, 0.8)]
    assert [accuracy_at(points, budget) for budget in (0, 5, 10, 20, 30)] == pytest.approx([0.2, 0.3, 0.4, 0.6, 0.8])


def test_the_ledger_of_a_judge(tmp_path, sweep):
    book = ledger(systems_of(sweep)[0].runs[0])
    # 4 steps: read 1200, wrote 400, for 400 trained tokens; waited 12 of 24 s
    assert (book.read, book.written, book.per_trained_token) == (1200, 400, 4.0)
    assert (book.waited, book.share) == (12.0, 0.5)
    # a quarter of the rollouts unknown: 1600 judge tokens for 300 trained ones
    unknown = dict.fromkeys(range(1, 5), 0.25)
    (system,) = systems(
        write_run(tmp_path / "unknown", CAPO, curves([0.1], **{"reward/outcome_unknown_frac": unknown}))
    )
    assert ledger(system.runs[0]).per_trained_token == pytest.approx(16 / 3)
    logged = {4: 7.5}
    values = curves([0.1], **{"critique/judge_tokens_per_trained_token_run": logged})
    (system,) = systems(write_run(tmp_path / "logged", CAPO, values))
    assert ledger(system.runs[0]).per_trained_token == 7.5
