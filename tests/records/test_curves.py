"""Curves out of CSV logs, the newest checkpoint, and a write that is interrupted."""

import pytest
import torch

from capo_lit.cli.quickstart import PANELS, summarize
from capo_lit.core.errors import DataError
from capo_lit.records.curves import read_curves
from capo_lit.records.inspect.plots import plot_curves
from capo_lit.training.callbacks.checkpoint import AtomicCheckpointIO, latest_checkpoint


def write(root, version, text):
    folder = root / "csv" / f"version_{version}"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text(text)


def test_the_later_start_of_a_resumed_run_counts(tmp_path):
    write(tmp_path, 0, "step,epoch,a,b\n1,0,0.5,\n2,0,0.6,7\n3,0,0.9,\n")
    write(tmp_path, 2, "step,epoch,a,b\n3,0,0.1,\n10,1,0.2,\n")
    write(tmp_path, 10, "step,epoch,a,b\n10,1,0.3,\n")  # after version 2, though "10" sorts before "2"
    assert read_curves(tmp_path) == {"a": {1: 0.5, 2: 0.6, 3: 0.1, 10: 0.3}, "b": {2: 7.0}}


@pytest.mark.parametrize("half", ["2", "2,0", "2,0,0.1", "2,0,0.12,3"])
def test_a_line_that_a_killed_run_did_not_finish_is_left_out(tmp_path, half):
    write(tmp_path, 0, f"step,epoch,a,b\n1,0,0.5,\n{half}")
    assert read_curves(tmp_path) == {"a": {1: 0.5}}


@pytest.mark.parametrize("row", ["x,0,1,2", "2,0,much,2", "2,0,1,2,3", ",0,1,2"])
def test_a_row_that_is_not_of_numbers_is_named(tmp_path, row):
    write(tmp_path, 0, f"step,epoch,a,b\n1,0,0.5,\n{row}\n")
    with pytest.raises(DataError, match=r"version_0/metrics\.csv: got a row that cannot be read"):
        read_curves(tmp_path)


def test_a_run_without_logs_is_named(tmp_path):
    with pytest.raises(DataError, match=str(tmp_path)):
        read_curves(tmp_path)


def test_a_row_of_the_quickstarts_table():
    curves = {
        "val/greedy_accuracy": {0: 0.1, 2: 0.5},
        "val/avg_at_k": {0: 0.2, 2: 0.4},
        "val/step_error_frac": {0: 0.3, 2: 0.25},
        "rollout/tokens": {1: 100.0, 2: 110.0},
    }
    start, end = summarize(curves, "start", 1.0, at=0), summarize(curves, "CAPO", 2.0)
    assert (start.greedy, start.avg_at_8, start.step_error, start.tokens) == (0.1, 0.2, 0.3, 0)
    assert (end.greedy, end.avg_at_8, end.step_error, end.seconds, end.tokens) == (0.5, 0.4, 0.25, 2.0, 210)


def test_the_plot_is_a_picture(tmp_path):
    curve = {"val/avg_at_k": {0: 0.1, 2: 0.3}, "val/greedy_accuracy": {0: 0.1}, "val/step_error_frac": {0: 0.1}}
    plot_curves({"CAPO": curve, "GRPO": curve}, PANELS).savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    for name in ("step=9.ckpt", "step=10.ckpt", ".step=11.ckpt.partial-1", "best.ckpt"):
        (tmp_path / name).touch()
    assert latest_checkpoint(tmp_path) == tmp_path / "step=10.ckpt"


def test_a_checkpoint_whose_writing_fails_leaves_the_old_one(tmp_path, monkeypatch):
    io, path = AtomicCheckpointIO(), tmp_path / "deep" / "step=1.ckpt"
    io.save_checkpoint({"state_dict": {"weight": torch.ones(2)}}, path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        io.save_checkpoint({"state_dict": {"weight": torch.zeros(2)}}, path)
    assert torch.equal(io.load_checkpoint(path)["state_dict"]["weight"], torch.ones(2))
    assert latest_checkpoint(path.parent) == path
