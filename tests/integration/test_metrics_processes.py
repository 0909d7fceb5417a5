"""Two real processes over gloo, each with other rollouts, log the metrics that one process with all of them logs."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback, Trainer

from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.votes import tally
from capo_lit.data.sft import SFTBatch
from capo_lit.evaluation.cost import run_metrics
from capo_lit.evaluation.names import STEP_SPECS
from capo_lit.evaluation.reduction import Mean, Parts
from capo_lit.evaluation.step import critique_metrics, outcome_metrics, rollout_metrics
from capo_lit.training.callbacks.ledger import LedgerCallback
from capo_lit.training.settings import OptimConfig
from capo_lit.training.sft import SFTModule
from tests.support.builders import tiny_llama
from tests.support.invariance import WHOLE, Groups, build, forget, make_batch, make_groups
from tests.support.loaders import Loader
from tests.support.ranks import run_two

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
# Of the machine, or of how rows are laid out in micro-batches, and not of the rollouts.
OWN = {"policy/pad_frac", "policy/train_tokens_per_s", "rollout/tokens_per_s", "sft/tokens_per_s", "time/update_s"}
CAUSES = ("parse", "timeout", "error: full", "aborted")


def halves(kind: str) -> tuple[Groups, Groups]:
    """What the two ranks have: as much; or nothing known on rank 1, where nobody judges, and nothing is cut either."""
    groups = make_groups(4)
    return (groups[:2], groups[2:]) if kind == "even" else (groups[:3], forget(groups[3:]))


def critiques(rollout: Rollout) -> list[Critique]:
    """One that finds fault, one from the store and one that fails in a way of the rollout's own."""
    ids = rollout.completion.ids
    cause = CAUSES[ids[0] % len(CAUSES)]
    stored = Critique("fine", frozenset(), "", 20, 2, cached=True)
    return [Critique("wrong", frozenset({0}), "", len(ids), 3), stored, Critique("", None, cause, 5, 1)]


def answered(rollout: Rollout) -> Rollout:
    """The same rollout; every second one states an answer, as long as its prompt."""
    done = rollout.completion
    text = f"\\boxed{{{'7' * len(rollout.prompt.ids)}}}" if done.ids[0] % 2 else done.text
    return replace(rollout, completion=replace(done, text=text))


class Measures(Callback):
    """Measures what the callbacks of a run do, as a function of the rollouts alone; not all of it where it is mute."""

    def __init__(self, mute: bool) -> None:
        self.mute = mute

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        rollouts = batch.require_rollouts()
        seconds = max(len(rollout.completion.ids) for rollout in rollouts) / 8
        said = [answered(rollout) for rollout in rollouts]
        pl_module.measure({**rollout_metrics(said, seconds), "time/sync_s": seconds, "time/step_s": seconds})
        pl_module.measure({"critique/gate_f1": Mean(0.5)})
        if not self.mute:
            pl_module.measure(judged(rollouts, seconds))


def judged(rollouts: tuple[Rollout, ...], seconds: float) -> Parts:
    """What two judges are said to have done."""
    items = [CritiquedRollout(r, tuple(c := critiques(r)), tally([x.wrong for x in c], len(r.spans), "union"))
             for r in rollouts]  # fmt: skip
    tokens = sum(len(rollout.completion.ids) for rollout in rollouts)
    failed = {f"failed_{cause}": len(rollouts) for cause in ("http_429", "http_5xx", "timeout", "connection")}
    failed |= {f"failed_{cause}": tokens for cause in ("unreadable", "refused", "other")}
    engine = {"prefix_tokens": 3 * tokens, "prefix_cached_tokens": tokens, "failed_attempts": 7, **failed}
    engine["aborted_completion_tokens"] = tokens
    engine["failed_attempts"] = 2 * tokens
    ends = {"yes": len(rollouts), "parse": tokens, "spared": 1.0 * len(rollouts), "prompt_tokens": 9 * tokens}
    run = {"judge_tokens": 11 * tokens, "trained_tokens": 2 * len(rollouts)}
    return {
        **critique_metrics(items, seconds, engine), **outcome_metrics(ends, engine),
        **run_metrics(run, "critique"), **run_metrics(run, "outcome"),
    }  # fmt: skip


def unsplit(batch: StepBatch) -> StepBatch:
    """The same rollouts without steps, and without verdicts."""
    bare = StepBatch(batch.prompts, 0)
    rows = batch.require_rollouts()
    bare.set_rollouts([Rollout(r.row, r.group, r.sample, r.prompt, r.completion, r.outcome, spans=()) for r in rows],
                      batch.sampling)  # fmt: skip
    bare.set_verdicts(CritiquedRollout(r, (), tally([], 0, "union")) for r in bare.require_rollouts())
    return bare


def fit(module, batch, callbacks, ckpt=None, save=None, **trainer) -> dict[str, float]:
    """What one step logs, and how many exchanges its metrics took."""
    logged: dict[str, float] = {}
    module.log_metrics = lambda values, batch_size: logged.update(values)
    runner = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, callbacks=callbacks, **{"devices": 1, **trainer},
    )  # fmt: skip
    gathered, real = [], dist.all_gather
    dist.all_gather = lambda *args, **kwargs: gathered.append(1) or real(*args, **kwargs)
    runner.fit(module, Loader([batch]), ckpt_path=ckpt, weights_only=True if ckpt else None)
    dist.all_gather = real
    if save:
        runner.save_checkpoint(save)
    return logged | {"exchanges": len(gathered)}


def one_step(policy: str, kind: str, how: str, groups: Groups, **trainer) -> dict[str, float]:
    """One batch of CAPO or PPO; in one process all rollouts of both ranks, of which some have no steps."""
    silent = kind == "mute" and trainer.get("rank") == 1
    batch = make_batch(groups)
    return fit(build(policy, how, WHOLE), unsplit(batch) if silent else batch, [Measures(silent)], **{
        name: value for name, value in trainer.items() if name != "rank"
    })  # fmt: skip


def supervised(policy: str, rows: list[tuple[int, ...]], **trainer) -> dict[str, float]:
    return fit(SFTModule(policy, OptimConfig(lr=1e-3)), SFTBatch([(ids, 2) for ids in rows], 0), [], **trainer)


ROWS = [(3, 4, 5, 6), (3, 4, 9), (7, 8, 9, 10, 11, 12), (5, 6, 7)]


def resumed(policy: str, path: Path, rank: int, **trainer) -> tuple[dict[str, float], dict[str, float]]:
    """The ledgers of a run's checkpoint and of the process that goes on with it."""
    first, second = LedgerCallback(), LedgerCallback()
    first.ledger.add({"judge_tokens": 10.0 * (rank + 1), "trained_tokens": 1.0})
    batch = make_batch(make_groups(1))
    fit(build(policy, "token", WHOLE), batch, [first], save=path, **trainer)
    fit(build(policy, "token", WHOLE), make_batch(make_groups(1)), [second], ckpt=path, **trainer)
    saved = torch.load(path, weights_only=True)["callbacks"][first.state_key]
    return saved, second.ledger.total


def worker(rank: int, port: int, policy: str, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    two = {"devices": 2, "strategy": "ddp"}
    results = {
        (kind, how): one_step(policy, kind, how, halves(kind)[rank], rank=rank, **two)
        for kind in ("even", "mute")
        for how in ("token", "sequence")
    }
    results["sft"] = supervised(policy, ROWS[:1] if rank == 0 else ROWS[1:], **two)
    results["ledger"] = resumed(policy, Path(folder) / "run.ckpt", rank, **two)
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each rank logged in each case, and the policy they started from."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny_llama(folder / "policy", initializer_range=0.1)
    run_two(worker, str(folder / "policy"), str(folder))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)], str(folder / "policy")


def assert_same(ranks: list[dict[str, float]], alone: dict[str, float]) -> None:
    assert [rank.pop("exchanges") for rank in ranks] == [1, 1]
    assert alone.pop("exchanges") == 0
    assert ranks[0] == ranks[1]
    assert set(ranks[0]) == set(alone)
    for name, value in alone.items():
        if name not in OWN:
            assert ranks[0][name] == pytest.approx(value, rel=TOLERANCE, abs=TOLERANCE), name


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_two_processes_log_what_one_logs(both, how):
    ranks, policy = both
    groups = halves("even")
    alone = one_step(policy, "even", how, [*groups[0], *groups[1]])
    seen = set(alone) | {name for name in ranks[0]["sft"] if name.startswith("sft/")}
    # Those of values are of the PPO example; the wait for a batch sampled ahead, of servers.
    assert {metric.name for metric in STEP_SPECS if not metric.name.startswith(("value/", "time/ahead"))} <= seen
    assert_same([rank["even", how] for rank in ranks], alone)


@pytest.mark.parametrize("how", ["token", "sequence"])
def test_a_rank_where_nothing_is_known_judged_or_cut_takes_part_in_every_metric(both, how):
    ranks, policy = both
    known, unknown = halves("mute")
    groups = [*known, *unknown]
    batch = make_batch(groups)
    rows = [r if r.group < len(known) else Rollout(r.row, r.group, r.sample, r.prompt, r.completion, None, spans=())
            for r in batch.require_rollouts()]  # fmt: skip
    whole = StepBatch(batch.prompts, 0)
    whole.set_rollouts(rows, batch.sampling)
    whole.set_verdicts(
        CritiquedRollout(row, (), item.verdict if row.spans else tally([], 0, "union"))
        for row, item in zip(rows, batch.require_verdicts(), strict=True)
    )

    class OfTheKnown(Measures):
        """Asks its judges about the rollouts of rank 0 alone."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
            asked = tuple(row for row in rows if row.spans)
            seconds = max(len(rollout.completion.ids) for rollout in asked) / 8
            pl_module.measure(judged(asked, seconds))

    assert_same([rank["mute", how] for rank in ranks], fit(build(policy, how, WHOLE), whole, [OfTheKnown(mute=True)]))


def test_two_processes_of_sft_log_what_one_logs(both):
    ranks, policy = both
    assert_same([rank["sft"] for rank in ranks], supervised(policy, ROWS))


def test_a_checkpoint_has_the_ledger_of_all_processes_and_the_first_goes_on_with_it(both):
    ranks, _ = both
    (saved, first), (_, second) = (rank["ledger"] for rank in ranks)
    assert saved == first == {"judge_tokens": 30.0, "trained_tokens": 2.0}
    assert second == {"judge_tokens": 0.0, "trained_tokens": 0.0}
