"""Fills a batch with verdicts: hands each rollout to the judge when it finishes, and waits for the votes."""

import time
from collections import Counter
from typing import Any

from lightning.pytorch import Trainer

from capo_lit.batch.facts import CritiquedRollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, JudgeError
from capo_lit.core.seeding import derive_seed
from capo_lit.engines.policy import bind_policy, start_engines
from capo_lit.evaluation.cost import run_metrics
from capo_lit.evaluation.judging.quality import JudgeQuality
from capo_lit.evaluation.step import critique_metrics
from capo_lit.genprm.base import StepJudge
from capo_lit.training.callbacks.ledger import LedgerCallback


class CritiqueCallback(LedgerCallback):
    """Asks the judge about every rollout of a training step, and of an evaluation if it has a judge for that.

    Args:
        judge: names the wrong steps of training rollouts; null asks nobody, which needs --model.credit.w_process 0.
        eval_judge: names the wrong steps of evaluation rollouts, for the step error rate; null measures none.
        max_abstain_frac: a training step in which a larger share of the critiques abstains, or of the outcomes of a
            GenORM is unknown, stops the run.
        seed: of the run.
        score_judge: in evaluations ask `judge` too, and measure the steps it finds against those of `eval_judge`.
    """

    def __init__(
        self,
        judge: StepJudge | None = None,
        eval_judge: StepJudge | None = None,
        max_abstain_frac: float = 0.5,
        seed: int = 0,
        score_judge: bool = False,
    ) -> None:
        if not 0 <= max_abstain_frac <= 1:
            raise ConfigError(
                f"max_abstain_frac {max_abstain_frac}", "a share in [0, 1]", change="--critique.max_abstain_frac"
            )
        if score_judge and (judge is None or eval_judge is None):
            raise ConfigError(
                "score_judge without two judges",
                "a judge, and an eval_judge that it is measured against",
                change="--critique.score_judge false, or --critique.eval_judge",
            )
        super().__init__()
        self._quality = JudgeQuality() if score_judge else None
        self.judge, self.eval_judge, self.max_abstain_frac, self.seed = judge, eval_judge, max_abstain_frac, seed
        self._counted: dict[str, float] = {}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a process penalty without a judge, before anything is generated; tell judges which policy it is."""
        w_process = getattr(getattr(pl_module, "credit", None), "w_process", 0.0)
        if stage == "fit" and self.judge is None and w_process > 0:
            raise ConfigError(
                f"no judge and w_process {w_process}",
                "a judge of steps",
                change="--critique.judge (a class_path), or --model.credit.w_process 0 for GRPO",
            )
        if pl_module.sampler is not None:
            for judge in (self.judge, self.eval_judge):
                bind_policy(judge, pl_module.sampler.engine, pl_module.policy_path)
        if trainer.world_size > 1:
            start_engines(self.judge, self.eval_judge)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Judge the rollouts of a step as they arrive."""
        if self.judge is None or not isinstance(batch, StepBatch):
            return
        if not batch.has_verdicts:  # those of a batch that was sampled ahead are there
            self.judge_batch(batch)
        self._counted = self.ledger.add_critiques(self.judge, batch.require_verdicts(), trained=True)
        self._refuse_mute_judge(batch.require_verdicts(), batch.step)

    def judge_batch(self, batch: StepBatch) -> None:
        """Judge the rollouts of a batch as they arrive; the judge's time is what the rollouts did not hide."""
        if self.judge is None:
            return
        started, waited = time.perf_counter(), batch.rollout_seconds
        batch.set_verdicts(self.judge.judge(batch.stream_rollouts(), derive_seed(self.seed, "critique", batch.step)))
        batch.critique_seconds = time.perf_counter() - started - (batch.rollout_seconds - waited)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what the judge said."""
        if isinstance(batch, StepBatch) and batch.has_verdicts:
            values = critique_metrics(batch.require_verdicts(), batch.critique_seconds, self._counted)
            pl_module.measure(values | run_metrics(self.ledger.total, "critique"))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Judge evaluation rollouts, for the step error rate."""
        if self.eval_judge is None:
            return
        seed = derive_seed(self.seed, "eval-critique")
        batch.set_verdicts(self.eval_judge.judge(batch.stream_rollouts(), seed))
        known = batch.require_verdicts()
        self.ledger.add_critiques(self.eval_judge, known, trained=False)
        if self._quality is not None and self.judge is not None:
            sampled = [item for item in known if not item.rollout.greedy]
            judged = list(self.judge.judge((item.rollout for item in sampled), seed))
            self.ledger.add_critiques(self.judge, judged, trained=False)
            self._quality.to(pl_module.device).add(sorted(judged, key=lambda item: item.rollout.row), sampled)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log how well the judge found wrong steps, under val/."""
        self._log_quality(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log how well the judge found wrong steps, under test/."""
        self._log_quality(pl_module, "test")

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def _log_quality(self, pl_module: Any, stage: str) -> None:
        if self._quality is not None:
            pl_module.log_metrics({f"{stage}/{k}": v for k, v in self._quality.compute().items()}, batch_size=1)
            self._quality.reset()

    def _refuse_mute_judge(self, critiqued: tuple[CritiquedRollout, ...], step: int) -> None:
        # An aborted critique could not change the vote any more, so it is no abstention.
        critiques = [critique for item in critiqued for critique in item.critiques if not critique.aborted]
        mute = [critique for critique in critiques if critique.wrong is None]
        if len(mute) > self.max_abstain_frac * len(critiques):
            causes = Counter(critique.cause for critique in mute).most_common(3)  # an engine's name their requests
            named = "; ".join(f"{count} x {cause}" for cause, count in causes)
            raise JudgeError(
                f"{len(mute)} of {len(critiques)} critiques without a verdict (causes: {named})",
                f"at most a share of {self.max_abstain_frac} that abstains",
                f"step {step}; first such reply: {mute[0].reply[-200:]!r}",
                "--critique.judge (model, template, sampling.max_tokens), or --critique.max_abstain_frac",
            )
