"""`capo fit` on two processes, each with vLLM for policy and judge: one is killed, and the run is resumed."""

import json

import pytest
import yaml

from capo_lit.records.curves import read_curves
from capo_lit.records.report.compute import UNITS, cost, ledger
from capo_lit.records.report.sweep_table import job_rows
from capo_lit.records.runs import read_runs
from tests.support.commands import capo
from tests.support.killed import weights_of
from tests.support.two_ranks import DDP, STEPS, killed_by, rows, run, words, write_config

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]
pytest.importorskip("vllm")

KILL_STEP = 3  # after the checkpoint of step 2, in the update that its Adam moments have gone into
# Of the machine, of an engine's cache, or of how rows are laid out in micro-batches, and not of the rollouts.
OWN = (
    "time/", "policy/pad_frac", "policy/train_tokens_per_s", "rollout/tokens_per_s", "critique/prefix_cached_frac",
    "step", "epoch",
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory, initial):
    return write_config(tmp_path_factory.mktemp("two"), initial)


@pytest.fixture(scope="module")
def killed(config):
    """How a run ended of which rank 1 was killed."""
    folder = config.parent
    return run(folder, words(config, folder / "run", *DDP, *killed_by(folder, "record", KILL_STEP, rank=1)))


@pytest.fixture(scope="module")
def resumed(config, killed):
    """The folder of that run, resumed to its end."""
    root = config.parent / "run"
    ended = run(config.parent, words(config, root, *DDP, "--ckpt_path", "last"))
    assert (ended.status, ended.left) == (0, False), ended.log
    return root


@pytest.fixture(scope="module")
def alone(config):
    """The same run on one process, never killed."""
    root = config.parent / "alone"
    capo(config.parent, *words(config, root))
    return root


def test_a_rank_that_is_killed_ends_the_run(killed, config):
    assert killed.status != 0, killed.log
    assert not killed.left
    assert (config.parent / "run" / "checkpoints" / "step=2.ckpt").exists()


def test_every_rank_has_engines_of_its_own_that_are_there_before_the_first_step(resumed):
    for rank in (0, 1):
        placed = json.loads((resumed / f"placed-{rank}.json").read_text())
        assert placed["engines"] == [["ExecutorWithExternalLauncher", rank, rank]] * 2
        assert placed["RANK"] is None  # Lightning's launcher sets none, and ours is taken back


def test_the_resumed_run_repeats_its_steps_to_the_bit(resumed):
    again, before = rows(resumed / "records"), rows(next(resumed.glob("records-superseded-*")))
    assert {key[0] for key in again} == set(range(STEPS))
    assert {key[:2] for key in before} >= {(2, 0), (2, 1), (3, 0)}
    for key, row in before.items():
        assert row == again[key], key
    assert any(row["critiques"][0]["wrong"] is not None for row in again.values())


def test_two_processes_log_and_report_what_one_does(resumed, alone):
    curves = [read_curves(root) for root in (resumed, alone)]
    assert set(curves[0]) == set(curves[1])
    for name in curves[1]:
        if not name.startswith(OWN):
            assert curves[0][name] == pytest.approx(curves[1][name], rel=1e-4, abs=1e-5), name
    assert max(curves[0]["val/avg_at_k"]) == STEPS
    two, one = read_runs([resumed, alone])
    assert two.system == one.system
    for unit in UNITS[:2]:
        assert cost(two, unit) == cost(one, unit) != {}
    assert vars(ledger(two)) | {"waited": 0, "share": 0} == vars(ledger(one)) | {"waited": 0, "share": 0}


def test_the_table_of_a_sweep_has_the_same_row_for_both(resumed, alone):
    for root in (resumed, alone):
        (root / ".hydra").mkdir()
        (root / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump([]))
    one, two = ({k: v for k, v in row.items() if k not in ("job", "seconds")} for row in job_rows(resumed.parent))
    assert one == pytest.approx(two)
    assert one["judge_tokens"] > one["rollout_tokens"] > 0


@pytest.mark.parametrize("rank", [0, 1])
def test_under_torchrun_it_is_the_same_run(tmp_path, initial, resumed, rank):
    config = write_config(tmp_path, initial)
    kill = killed_by(tmp_path, "record", KILL_STEP, rank)
    ended = run(tmp_path, words(config, tmp_path / "run", *DDP, *kill), torchrun=True)
    assert ended.status != 0
    assert not ended.left
    ended = run(tmp_path, words(config, tmp_path / "run", *DDP, "--ckpt_path", "last"), torchrun=True)
    assert (ended.status, ended.left) == (0, False), ended.log
    assert weights_of(tmp_path / "run") == weights_of(resumed)
    assert rows(tmp_path / "run" / "records") == rows(resumed / "records")


def test_the_first_rank_killed_leaves_no_process(tmp_path, initial):
    config = write_config(tmp_path, initial)
    ended = run(tmp_path, words(config, tmp_path / "run", *DDP, *killed_by(tmp_path, "update", 0, rank=0)))
    assert (ended.status, ended.left) == (-9, False), ended.log
