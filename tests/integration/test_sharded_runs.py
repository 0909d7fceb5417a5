"""`capo fit` with the policy in shards on two processes (FSDP2): killed, resumed, and compared with DDP."""

import json

import pytest
from safetensors.torch import load_file

from tests.support.killed import weights_of
from tests.support.two_ranks import DDP, FSDP, STEPS, killed_by, rows, run, words, write_config

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(3600)]
pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def config(tmp_path_factory, initial):
    return write_config(tmp_path_factory.mktemp("shards"), initial)


def ended(config, name, *extra):
    """The folder of a run that came to its end."""
    root = config.parent / name
    end = run(config.parent, words(config, root, *extra))
    assert (end.status, end.left) == (0, False), end.log
    return root


@pytest.fixture(scope="module")
def resumed(config):
    """A run whose first rank was killed when all shards of a checkpoint were written, and resumed."""
    root = config.parent / "resumed"
    kill = killed_by(config.parent, "checkpoint", STEPS - 1, rank=0)
    end = run(config.parent, words(config, root, *FSDP, *kill))
    assert (end.status, end.left) == (-9, False), end.log
    left = {path.name.split("-")[0] for path in (root / "checkpoints").iterdir()}
    assert left == {"step=2.ckpt", f".step={STEPS}.ckpt.partial"}
    return ended(config, "resumed", *FSDP, "--ckpt_path", "last")


def test_shards_train_as_whole_policies_do(config, resumed):
    whole = ended(config, "ddp", *DDP)
    one, two = (load_file(root / "policy" / "model.safetensors") for root in (whole, resumed))
    assert set(one) == set(two)
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 1e-6, name
    same = ("response_ids", "step_error", "advantages", "policy_version")
    expected, got = rows(whole / "records"), rows(resumed / "records")
    assert {key: [row[name] for name in same] for key, row in expected.items()} == {
        key: [row[name] for name in same] for key, row in got.items()
    }


def test_a_resumed_run_is_the_untouched_one_to_the_bit_whatever_its_checkpoints_are(config, resumed):
    untouched = ended(config, "file", *FSDP, "--trainer.strategy.save_distributed_checkpoint", "false")
    kinds = [{path.name: path.is_dir() for path in (root / "checkpoints").iterdir()} for root in (untouched, resumed)]
    assert kinds == [{"step=2.ckpt": False, "step=4.ckpt": False}, {"step=2.ckpt": True, "step=4.ckpt": True}]
    assert weights_of(untouched) == weights_of(resumed)
    assert rows(untouched / "records") == rows(resumed / "records")
    again, before = rows(resumed / "records"), rows(next(resumed.glob("records-superseded-*")))
    assert {key: again[key] for key in before} == before


def test_shards_are_validated(config, resumed):
    last = sorted(resumed.glob("results/val-*.json"))[-1]
    before = json.loads(last.read_text())["metrics"]
    last.unlink()
    command = words(config, resumed, *FSDP, "--ckpt_path", "last")
    end = run(config.parent, ["validate", *command[1:]])
    assert (end.status, end.left) == (0, False), end.log
    assert json.loads(last.read_text())["metrics"] == pytest.approx(before)
