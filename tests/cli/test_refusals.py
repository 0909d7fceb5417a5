"""What Lightning and the disk refuse, in one line that names our setting."""

import errno
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.cli.compose import quoted
from capo_lit.cli.parser import brief
from capo_lit.cli.refusals import in_our_words, leaves, refusal, replaced
from capo_lit.cli.run_checks import check_folders, check_seed, check_trainer
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.training.callbacks.checkpoint import AtomicCheckpointIO, BestCheckpoint, resolve_checkpoint
from capo_lit.training.callbacks.progress import LineProgress


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"accumulate_grad_batches": 2}, "--data.prompts_per_step"),
        ({"gradient_clip_val": 1.0}, "--model.optim.grad_clip"),
        ({"gradient_clip_algorithm": "value"}, "--model.optim.grad_clip"),
        ({"enable_checkpointing": False}, "--checkpoint.every_n_steps"),
        ({"barebones": True}, "--trainer.barebones"),
        ({"precision": "16-mixed"}, "bf16-mixed"),
        ({"precision": 16}, "--trainer.precision"),
        ({"strategy": "fsdp"}, "ModelParallelStrategy"),
        ({"strategy": {"class_path": "lightning.pytorch.strategies.FSDPStrategy"}}, "gpu8_fsdp"),
        ({"overfit_batches": 0.5}, "--data.train"),
        ({"reload_dataloaders_every_n_epochs": 1}, "step 0"),
    ],
)
def test_a_setting_of_the_trainer_that_would_train_wrongly_is_refused(settings, named):
    with pytest.raises(ConfigError, match=named):
        check_trainer(settings, "fit")


def test_what_is_usual_is_taken_and_an_evaluation_of_no_batches_is_not():
    usual = {"accumulate_grad_batches": 1, "precision": "bf16-mixed", "overfit_batches": 0.0, "limit_val_batches": 0}
    for strategy in ("auto", "ddp", {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}):
        check_trainer({"strategy": strategy}, "fit")
    check_trainer({**usual, "gradient_clip_val": None, "enable_checkpointing": None, "barebones": False}, "fit")
    for stage, name in (("validate", "limit_val_batches"), ("predict", "limit_predict_batches")):
        with pytest.raises(ConfigError, match=f"--trainer.{name}"):
            check_trainer({name: 0}, stage)


@pytest.mark.parametrize("seed", [-1, 2**32, True, False, 1.5, "1", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ConfigError, match="--seed_everything"):
        check_seed(seed)
    check_seed(0)
    check_seed(2**32 - 1)


def test_a_folder_that_cannot_be_written_into_names_its_setting(tmp_path):
    (tmp_path / "file").touch()
    check_folders({"trainer.default_root_dir": tmp_path / "new" / "run"})
    assert (tmp_path / "new" / "run").is_dir()
    with pytest.raises(ConfigError, match=r"Not a directory.*--trainer\.default_root_dir"):
        check_folders({"trainer.default_root_dir": tmp_path / "file" / "run"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_time": "soon"}, "max_time"),
        ({"strategy": "magic"}, "strategy"),
        ({"profiler": "magic"}, "profiler"),
        ({"accelerator": "magic"}, "accelerator"),
        ({"accelerator": "cpu", "devices": "0"}, "devices"),
        ({"accelerator": "cpu", "limit_val_batches": 1.5}, "limit_val_batches"),
        ({"accelerator": "cpu", "max_steps": -2}, "max_steps"),
        ({"accelerator": "cpu", "fast_dev_run": -1}, "fast_dev_run"),
    ],
)
def test_a_trainer_that_cannot_be_built_names_the_setting(settings, named):
    flat = leaves({"trainer": settings, "policy": "some/policy"})
    with pytest.raises(ConfigError) as caught, in_our_words(flat, building=True):
        Trainer(logger=False, enable_checkpointing=False, **settings)
    assert caught.value.change == f"--trainer.{named}"
    assert "\n" not in str(caught.value)


def raised_in(module, error):
    """An error whose innermost frame is a module's."""
    scope = {"__name__": module, "error": error.with_traceback(None)}
    with pytest.raises(type(error)) as caught:
        exec("raise error", scope)
    return caught.value


def test_an_error_of_lightning_is_a_refusal_only_if_it_names_a_setting():
    told = ValueError("`val_check_interval` (9) must be less than or equal to the number of the training batches (2).")
    flat = {"trainer.val_check_interval": 9, "trainer.max_steps": -1}
    assert refusal(raised_in("lightning.pytorch.loops.fit_loop", told), flat).change == "--trainer.val_check_interval"
    assert refusal(raised_in("capo_lit.training.capo", told), flat) is None
    assert refusal(raised_in("lightning.pytorch.loops.fit_loop", ValueError("a bug")), flat) is None
    assert refusal(raised_in("lightning.pytorch.loops", DataError("a", "b")), flat) is None


def test_a_value_in_a_message_names_its_setting_and_no_shorter_one():
    flat = leaves({"best": {"monitor": "val/nope"}, "data": {"val": {"split": "val"}}, "trainer": {"max_steps": 3}})
    error = RuntimeError("Early stopping conditioned on metric `val/nope` which is not available.")
    assert refusal(raised_in("lightning.pytorch.callbacks.early_stopping", error), flat).change == "--best.monitor"


def test_a_path_that_the_disk_refuses_names_the_nearest_setting(tmp_path):
    flat = {"trainer.default_root_dir": str(tmp_path), "record.directory": str(tmp_path / "rec"), "policy": "p"}
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "rec" / "x"))
    assert "--record.directory" in refusal(denied, flat).change
    assert "--trainer.default_root_dir" in refusal(OSError(errno.ENOSPC, "No space left on device"), flat).change
    assert refusal(PermissionError(errno.EACCES, "Permission denied", "/elsewhere"), flat) is None


@pytest.mark.parametrize(
    ("message", "instead"),
    [
        ("Problem with given class_path 'capo_lit.HubSource': Option 'limit' is not accepted", "a slice of the split"),
        (
            "Problem with given class_path 'capo_lit.SFTDataModule': Parser key \"train\": "
            "Problem with given class_path 'capo_lit.ArithmeticSource': Option 'min_ops' is not accepted",
            "operations",
        ),
        ("unrecognized arguments: --best.mode min", "the metric's definition"),
        ("unrecognized arguments: --rollout.eval_sampling.temperature 1", "capo validate"),
        ("x.yaml: Group 'lm_eval' does not accept option 'task_dir'", "the paths of the files"),
    ],
)
def test_a_setting_that_is_gone_says_what_takes_its_place(message, instead):
    assert brief(ValueError(message)).startswith(f"{message} (gone; in its place: ")
    assert instead in brief(ValueError(message))


def test_other_unknown_settings_are_only_unknown():
    for message in ("unrecognized arguments: --best.limit 3", "Option 'limit' is not accepted", "nothing"):
        assert replaced(message) == ""


def test_last_and_best_are_the_runs_checkpoints_and_what_is_not_there_is_an_error(tmp_path):
    folders = {"last": tmp_path / "checkpoints", "best": tmp_path / "best"}
    assert resolve_checkpoint(None, folders, may_start=False) is None
    assert resolve_checkpoint("last", folders, may_start=True) is None
    for word, may_start in (("last", False), ("best", False), ("best", True)):
        with pytest.raises(ConfigError, match=f"--ckpt_path {word}, and no checkpoint in"):
            resolve_checkpoint(word, folders, may_start)
    for word, step in (("last", 4), ("best", 2)):
        folders[word].mkdir()
        (folders[word] / f"step={step}.ckpt").touch()
        assert resolve_checkpoint(word, folders, may_start=False) == folders[word] / f"step={step}.ckpt"
    file = str(tmp_path / "best" / "step=2.ckpt")
    assert resolve_checkpoint(file, folders, may_start=False) == file
    for missing in ("nope.ckpt", str(tmp_path), ""):
        with pytest.raises(ConfigError, match="--ckpt_path"):
            resolve_checkpoint(missing, folders, may_start=True)


def test_the_best_checkpoint_is_that_of_the_largest_value_or_of_the_smallest_as_the_metric_says():
    modes = {"val/avg_at_k": "max", "val/step_error_frac": "min", "val/lm_eval/arc_easy/acc": "max", None: "max"}
    modes |= {"val/lm_eval/wikitext/word_perplexity": "min", "val/lm_eval/capo_gsm8k/unknown_frac": "min"}
    assert {name: BestCheckpoint(name).mode for name in modes} == modes
    with pytest.raises(ConfigError, match="nearest: val/avg_at_k"):
        BestCheckpoint("val/avg_at_8")


def test_a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    io = AtomicCheckpointIO()
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.ckpt")
    whole = tmp_path / "step=1.ckpt"
    io.save_checkpoint({"state_dict": {"w": torch.zeros(1000)}}, whole)
    assert io.load_checkpoint(whole, weights_only=True)["state_dict"]["w"].shape == (1000,)
    (tmp_path / "half.ckpt").write_bytes(whole.read_bytes()[:1000])
    for name in ("text.ckpt", "weights.ckpt", "half.ckpt"):
        with pytest.raises(ConfigError, match=f"{name}.*--ckpt_path") as caught:
            io.load_checkpoint(tmp_path / name, weights_only=True)
        assert "\n" not in str(caught.value)


def test_a_folder_of_shards_is_no_file_and_is_removed_whole(tmp_path):
    io, folder = AtomicCheckpointIO(), tmp_path / "step=3.ckpt"
    folder.mkdir()
    (folder / "meta.pt").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"a folder of shards.*ModelParallelStrategy.*consolidate_checkpoint"):
        io.load_checkpoint(folder, weights_only=True)
    io.remove_checkpoint(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "taken"),
    [
        ("ckpt_path=r0/checkpoints/step=3.ckpt", "ckpt_path='r0/checkpoints/step=3.ckpt'"),
        ("+a.b=x=y=z", "+a.b='x=y=z'"),
        ("seed=1", "seed=1"),
        ("a='b=c'", "a='b=c'"),
        ('a="b=c"', 'a="b=c"'),
        ("seed=range(start=1,stop=3)", "seed=range(start=1,stop=3)"),
        ("a=b=1,c=2", "a=b=1,c=2"),
        ("a=${b}=c", "a=${b}=c"),
        ("-m", "-m"),
    ],
)
def test_a_plain_value_with_an_equals_sign_is_quoted(word, taken):
    assert quoted(word) == taken


@pytest.mark.parametrize(("max_steps", "shown"), [(-1, ["step 1", "step 2"]), (9, ["step 1/9", "step 2/9"])])
def test_progress_shows_an_end_only_where_there_is_one_and_the_last_step_once(monkeypatch, max_steps, shown):
    lines, progress = [], LineProgress()
    progress.seconds = 0.0
    monkeypatch.setattr(
        "capo_lit.training.callbacks.progress._log.info", lambda text, *values: lines.append((text % values).strip())
    )
    for step in (1, 2):
        trainer = SimpleNamespace(global_step=step, max_steps=max_steps, progress_bar_metrics={})
        progress.on_train_batch_start(trainer, None, None, 0)
    progress.on_train_end(trainer, None)
    assert lines == shown
    late = LineProgress()
    late.seconds = 1e9
    late._last = time.monotonic()
    late.on_train_batch_start(trainer, None, None, 0)
    assert lines == shown
    late.on_train_end(trainer, None)
    assert lines == [*shown, shown[-1]]


def test_a_checkpoint_of_another_model_names_the_checkpoint():
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(2, 2).load_state_dict(torch.nn.Linear(3, 2).state_dict())
    told = refusal(caught.value, {})
    assert told.change == "--ckpt_path"
    assert "size mismatch" in told.got
    assert "\n" not in str(told)
