"""Fills a batch with verdicts: hands each rollout to the judge when it finishes, and waits for the votes."""

import time
from typing import Any

from lightning.pytorch import Callback, Trainer

from capo_lit.batch import CritiquedRollout, StepBatch
from capo_lit.callbacks.rollout_metrics import critique_metrics
from capo_lit.errors import ConfigError, JudgeError
from capo_lit.genprm.base import StepJudge
from capo_lit.seeding import derive_seed


class CritiqueCallback(Callback):
    """Asks the judge about every rollout of a training step, and of an evaluation if it has a judge for that.

    Args:
        judge: names the wrong steps of training rollouts; null asks nobody, which needs --model.credit.w_process 0.
        eval_judge: names the wrong steps of evaluation rollouts, for the step error rate; null measures none.
        max_abstain_frac: a training step in which a larger share of the critiques abstains stops the run.
        seed: of the run.
    """

    def __init__(
        self,
        judge: StepJudge | None = None,
        eval_judge: StepJudge | None = None,
        max_abstain_frac: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 <= max_abstain_frac <= 1:
            raise ConfigError(
                f"max_abstain_frac {max_abstain_frac}", "a share in [0, 1]", change="--critique.max_abstain_frac"
            )
        self.judge, self.eval_judge, self.max_abstain_frac, self.seed = judge, eval_judge, max_abstain_frac, seed
        self._judge_tokens = 0.0

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a process penalty without a judge, before anything is generated."""
        w_process = getattr(getattr(pl_module, "credit", None), "w_process", 0.0)
        if stage == "fit" and self.judge is None and w_process > 0:
            raise ConfigError(
                f"no judge and w_process {w_process}",
                "a judge of steps",
                change="--critique.judge (a class_path), or --model.credit.w_process 0 for GRPO",
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Judge the rollouts of a step as they arrive."""
        if self.judge is None or not isinstance(batch, StepBatch):
            return
        started, waited = time.perf_counter(), batch.rollout_seconds
        batch.set_verdicts(self.judge.judge(batch.stream_rollouts(), derive_seed(self.seed, "critique", batch.step)))
        # The judge's time that the rollouts did not hide.
        self._seconds = time.perf_counter() - started - (batch.rollout_seconds - waited)
        self._refuse_mute_judge(batch.require_verdicts(), batch.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what the judge said."""
        if isinstance(batch, StepBatch) and batch.has_verdicts:
            values = critique_metrics(batch.require_verdicts(), self._seconds)
            self._judge_tokens += values["critique/judge_prompt_tokens"] + values["critique/judge_completion_tokens"]
            values["critique/judge_tokens_run"] = self._judge_tokens
            pl_module.log_metrics(values, len(batch))

    def state_dict(self) -> dict[str, float]:
        """The ledger so far, for the checkpoint."""
        return {"judge_tokens": self._judge_tokens}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on with the ledger of the run that is resumed."""
        self._judge_tokens = state_dict["judge_tokens"]

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Judge evaluation rollouts, for the step error rate."""
        if self.eval_judge is not None:
            seed = derive_seed(self.seed, "eval-critique")
            batch.set_verdicts(self.eval_judge.judge(batch.stream_rollouts(), seed))

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def _refuse_mute_judge(self, critiqued: tuple[CritiquedRollout, ...], step: int) -> None:
        # An aborted critique could not change the vote any more, so it is no abstention.
        critiques = [critique for item in critiqued for critique in item.critiques if not critique.aborted]
        mute = [critique for critique in critiques if critique.wrong is None]
        if len(mute) > self.max_abstain_frac * len(critiques):
            causes = sorted({critique.cause for critique in mute})
            raise JudgeError(
                f"{len(mute)} of {len(critiques)} critiques without a verdict (causes: {', '.join(causes)})",
                f"at most a share of {self.max_abstain_frac} that abstains",
                f"step {step}; first such reply: {mute[0].reply[-200:]!r}",
                "--critique.judge (model, template, sampling.max_tokens), or --critique.max_abstain_frac",
            )
