"""capo-sweep without the training: a stand-in for `capo fit` writes what a run leaves, or fails."""

import json
import logging
import math
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from capo_lit.cli import process as fit_process
from capo_lit.cli import sweep
from capo_lit.cli.compose import CONFIGS, compose
from capo_lit.cli.sweep import main, train
from capo_lit.records.report.sweep_table import job_rows, write_table
from capo_lit.records.runs import CONFIG, LOG, read_result

# Called as `python -m capo_lit.cli fit --config FILE --trainer.default_root_dir ROOT --ckpt_path last`.
FIT = """
import pathlib, sys, yaml
from capo_lit.core.errors import ConfigError
words = sys.argv[sys.argv.index("fit"):]
config, root = yaml.safe_load(open(words[2])), pathlib.Path(words[4])
assert words[3::2] == ["--trainer.default_root_dir", "--ckpt_path"]
seed, w_process = config["seed_everything"], config["model"]["init_args"]["credit"]["w_process"]
if seed == 13:
    print("capo: ConfigError: seed 13 is unlucky", file=sys.stderr)
    print("Error: on the way out")
    print("bye")
    sys.exit(3)
log = root / "csv" / "version_0"
log.mkdir(parents=True)
names = "step,val/avg_at_k,rollout/tokens,critique/judge_tokens_run,outcome/judge_tokens_run"
rows = ["0,0.1,,,", f"1,,40,{w_process * 100},", f"2,{seed / 10},60,{w_process * 200},5"]
(log / "metrics.csv").write_text("\\n".join([names, *rows]) + "\\n")
"""


@pytest.fixture(autouse=True)
def loggers_stay():
    """Hydra switches off every logger of its process, which here is also that of other tests."""
    loggers = [one for one in logging.Logger.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    before = [(one, one.disabled) for one in loggers]
    yield
    for one, disabled in before:
        one.disabled = disabled


@pytest.fixture
def fake_fit(tmp_path, monkeypatch):
    """Runs FIT in the place of `capo fit`, in a process all the same."""
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    real = fit_process.subprocess.run

    def run(command, **kwargs):
        assert command[:3] == [sys.executable, "-m", "capo_lit.cli"]
        return real([sys.executable, str(script), *command[3:]], **kwargs)

    monkeypatch.setattr(fit_process.subprocess, "run", run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep.Summary, "folder", None)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return tmp_path


def capo_sweep(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["capo-sweep", *words])
    return main()


@pytest.mark.slow
def test_jobs_become_rows_and_a_failing_one_stops_no_other(fake_fit, monkeypatch, capsys):
    words = ["-m", "experiment=grpo_rule,capo", "seed=13,2", "trainer.max_steps=4", "hydra.sweep.dir=out"]
    assert capo_sweep(monkeypatch, *words) == 1
    rows = pq.read_table("out/summary.parquet").to_pylist()
    assert [(row["job"], row["experiment"], row["seed"], row["status"]) for row in rows] == [
        (0, "grpo_rule", 13, "failed"),
        (1, "grpo_rule", 2, "ok"),
        (2, "capo", 13, "failed"),
        (3, "capo", 2, "ok"),
    ]
    assert rows[0]["error"] == "exit status 3: capo: ConfigError: seed 13 is unlucky"
    assert rows[0]["val/avg_at_k"] is None
    # The last evaluation, all tokens sampled (40 + 60), and both judges' ledgers (0 or 200, and 5) at their ends.
    assert (rows[1]["step"], rows[1]["val/avg_at_k"], rows[1]["rollout_tokens"]) == (2, 0.2, 100)
    assert (rows[1]["judge_tokens"], rows[3]["judge_tokens"]) == (5, 205)
    assert rows[1]["seconds"] > 0
    page = (fake_fit / "out" / "summary.md").read_text()
    assert capsys.readouterr().out == page
    assert page.startswith("4 jobs, 2 failed: out\n\nAll jobs: trainer.max_steps=4\n")
    assert "| 0 | grpo_rule | 13 | failed |" in page
    assert "trainer.max_steps" not in page.split("All jobs")[1].split("\n", 1)[1]


def test_a_job_s_config_is_what_the_words_compose_and_runs_beside_the_job(fake_fit, monkeypatch):
    assert capo_sweep(monkeypatch, "experiment=capo_union", "seed=3", "hydra.run.dir=alone") == 0
    saved = yaml.safe_load((fake_fit / "alone" / CONFIG).read_text())
    expected = compose(["experiment=capo_union", "seed=3"])
    assert saved["trainer"].pop("default_root_dir") == "alone/rerun"
    del expected["trainer"]["default_root_dir"]
    assert saved == expected
    assert (fake_fit / "alone" / "summary.md").exists()


@pytest.mark.slow
def test_the_same_sweep_again_runs_only_what_failed(fake_fit, monkeypatch):
    words = ["-m", "seed=13,2", "hydra.sweep.dir=out"]
    assert capo_sweep(monkeypatch, *words) == 1
    failed, done = (read_result(fake_fit / "out" / job) for job in "01")
    (fake_fit / "fit.py").write_text(FIT.replace("seed == 13", "seed == 2"))  # now the finished one would fail
    assert capo_sweep(monkeypatch, *words) == 0
    assert read_result(fake_fit / "out" / "1") == done
    assert read_result(fake_fit / "out" / "0")["seconds"] > failed["seconds"]


def test_a_folder_of_another_job_is_not_written_over(fake_fit, monkeypatch):
    assert capo_sweep(monkeypatch, "-m", "seed=2,3", "hydra.sweep.dir=out") == 0
    assert capo_sweep(monkeypatch, "-m", "seed=2,4", "hydra.sweep.dir=out") == 1
    rows = job_rows(fake_fit / "out")
    assert [row["status"] for row in rows] == ["ok", "failed"]
    assert "hydra.sweep.dir" in rows[1]["error"]
    assert yaml.safe_load((fake_fit / "out" / "1" / CONFIG).read_text())["seed_everything"] == 3
    assert rows[1]["step"] is None  # the curves there are the other job's
    # The finished job's result is still there: asked for again it is not run again.
    (fake_fit / "fit.py").write_text("raise SystemExit(3)")
    assert capo_sweep(monkeypatch, "-m", "seed=2,3", "hydra.sweep.dir=out") == 0


def test_a_log_keeps_earlier_starts_and_an_error_is_of_the_last(fake_fit, monkeypatch):
    words = ["-m", "seed=13", "hydra.sweep.dir=out"]
    assert capo_sweep(monkeypatch, *words) == 1
    (fake_fit / "fit.py").write_text("raise SystemExit('killed')")
    assert capo_sweep(monkeypatch, *words) == 1
    log = (fake_fit / "out" / "0" / LOG).read_text()
    assert "seed 13 is unlucky" in log
    assert log.rstrip().endswith("killed")
    assert read_result(fake_fit / "out" / "0")["error"] == "exit status 1: killed"


def test_what_an_optimizer_is_told(fake_fit):
    from omegaconf import OmegaConf

    folder = fake_fit / "job"
    folder.mkdir()
    train(compose(["seed=4"]), folder)
    assert sweep._objective(folder, "val/avg_at_k", math.nan) == 0.4
    assert sweep._objective(folder, "rollout/tokens", math.nan) == 60
    assert sweep._objective(folder, "val/avg_at_kk", -math.inf) == -math.inf
    assert math.isnan(sweep._worst(OmegaConf.create({"sweeper": {"_target_": "BasicSweeper"}})))
    assert sweep._worst(OmegaConf.create({"sweeper": {"direction": "minimize"}})) == math.inf
    assert OmegaConf.load(CONFIGS / "config.yaml").objective == "val/avg_at_k"


def test_threads_default_to_one_on_the_cpu_alone(fake_fit, monkeypatch):
    (fake_fit / "fit.py").write_text("import os; print(os.environ.get('OMP_NUM_THREADS'))")
    seen = {}
    for name, threads, words in (("cpu", None, []), ("own", "7", []), ("gpu", None, ["hardware=gpu1"])):
        if threads is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", threads)
        (fake_fit / name).mkdir()
        train(compose(words), fake_fit / name)
        seen[name] = (fake_fit / name / LOG).read_text().strip()
    assert seen == {"cpu": "1", "own": "7", "gpu": "None"}


def test_errors_before_the_first_job_are_one_line(fake_fit, monkeypatch, capsys):
    for words in (["-m", "experiment=capo,capoo"], ["seed=1,2"], ["-m", "modell.x=1"]):
        assert capo_sweep(monkeypatch, *words) == 2
        error = capsys.readouterr().err
        assert error.startswith("capo-sweep: ")
        assert error.count("\n") == 1
        assert "search path" not in error
        assert not list(fake_fit.glob("runs/*/*/"))


def test_the_table_takes_bars_and_missing_values(tmp_path):
    rows = [
        {"job": "0", "seed": "1", "status": "ok", "step": 1, "rollout_tokens": 12345, "judge_tokens": 0}
        | {"seconds": 1.0, "error": "", "val/x": 0.51239},
        {"job": "1", "seed": "two", "status": "failed", "step": None, "rollout_tokens": None, "judge_tokens": None}
        | {"seconds": None, "error": "a | b"},
    ]
    text = write_table(rows, tmp_path)
    assert text.splitlines()[-2:] == [
        "| 0 | 1 | ok | 1 | 0.5124 | 12345 | 0 | 1.0000 |  |",
        "| 1 | two | failed |  |  |  |  |  | a \\| b |",
    ]
    assert pq.read_table(tmp_path / "summary.parquet")["seed"].to_pylist() == ["1", "two"]
    assert json.dumps(pq.read_table(tmp_path / "summary.parquet")["val/x"].to_pylist()) == "[0.51239, null]"
