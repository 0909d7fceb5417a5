"""Measures the judge on labelled solutions; where it is not good enough, the run ends."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, DataError, JudgeError, check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.evaluation.cost import Ledger
from capo_lit.evaluation.judging.labelled import LabelledSource
from capo_lit.evaluation.judging.scores import first_wrong, processbench_scores
from capo_lit.evaluation.judging.solutions import Solution
from capo_lit.evaluation.reduction import Mean
from capo_lit.genprm.base import StepJudge
from capo_lit.training.callbacks.critique import CritiqueCallback

log = logging.getLogger(__name__)

# Solutions handed to the judge at a time, so that none waits for its turn until its deadline is past.
_CHUNK = 16


def judge_f1(judge: StepJudge, solutions: list[Solution], seed: int, ledger: Ledger | None = None) -> float:
    """F1 of a judge's voted verdicts on labelled solutions, as ProcessBench has it.

    F1 = 2ab / (a + b), where a is the share of erroneous solutions whose first wrong step was named, and b the share
    of right ones in which none was. A solution without a valid critique counts as answered wrongly.

    Args:
        judge: what is measured.
        solutions: with labels, of both kinds.
        seed: of the critiques.
        ledger: of the run, which they are entered in.

    Returns:
        F1, in [0, 1].

    Raises:
        DataError: if all solutions are right, or all are wrong.
    """
    predictions: list[int | None] = [None] * len(solutions)
    for start in range(0, len(solutions), _CHUNK):
        part = [solution.rollout(start + index) for index, solution in enumerate(solutions[start : start + _CHUNK])]
        items = list(judge.judge(part, seed))
        if ledger is not None:
            ledger.add_critiques(judge, items, trained=False)
        for item in items:
            if item.verdict.valid:
                predictions[item.rollout.row] = first_wrong(item.verdict.step_error)
    scores = processbench_scores([-1 if s.label is None else s.label for s in solutions], predictions)
    if scores.f1 is None:
        raise DataError(
            f"{scores.erroneous} labelled solutions with a wrong step and {scores.correct} without",
            "some of each",
            "JudgeGateCallback",
            "labelled",
        )
    return scores.f1


class JudgeGateCallback(Callback):
    """Scores the CritiqueCallback's judge before training, and again every n steps; below the threshold the run ends.

    The score is this callback's state, so that a resumed run does not score again before the next n steps are over.

    Args:
        labelled: where solutions with labels come from; all of them are judged together.
        every_n_steps: rollout steps between two scores; 0 scores once, before training.
        threshold: F1 in [0, 1] that the judge must have.
    """

    def __init__(self, labelled: list[LabelledSource], every_n_steps: int = 0, threshold: float = 0.5) -> None:
        checks = (
            (bool(labelled), "no source of labelled solutions", "at least one", "labelled"),
            (every_n_steps >= 0, f"every_n_steps {every_n_steps}", "an integer >= 0", "every_n_steps"),
            (0 <= threshold <= 1, f"threshold {threshold}", "an F1 in [0, 1]", "threshold"),
        )
        check_settings(checks, "JudgeGateCallback")
        self.labelled, self.every_n_steps, self.threshold = labelled, every_n_steps, threshold
        self.f1: float | None = None
        self._solutions: list[Solution] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Load the labelled solutions, before anything is generated."""
        if stage != "fit" or self._solutions:
            return
        if not hasattr(pl_module, "credit"):
            raise ConfigError(
                f"a judge gate on {type(pl_module).__name__}", "a CapoModule", change="--trainer.callbacks"
            )
        self._solutions = [solution for source in self.labelled for solution in source.load()]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Score the judge, unless a checkpoint brought its score.

        Raises:
            JudgeError: if the judge is below the threshold.
        """
        critique = _critique(trainer, pl_module)
        if critique is None:
            log.info("judge gate: idle, for the process weight is 0")
            return
        if self.f1 is None:
            self._score(trainer, pl_module, *critique, step=0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Score the judge again when n steps are over.

        Raises:
            JudgeError: as in on_train_start.
        """
        if not isinstance(batch, StepBatch) or not self.every_n_steps or batch.step == 0:
            return
        critique = _critique(trainer, pl_module)
        if critique is not None and batch.step % self.every_n_steps == 0:
            self._score(trainer, pl_module, *critique, step=batch.step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure the last score."""
        if self.f1 is not None and isinstance(batch, StepBatch):
            pl_module.measure({"critique/gate_f1": Mean(self.f1)})

    def state_dict(self) -> dict[str, Any]:
        """The last score."""
        return {"f1": self.f1}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the score of a checkpoint."""
        self.f1 = state_dict["f1"]

    def _score(self, trainer: Trainer, pl_module: Any, judge: StepJudge, ledger: Ledger, step: int) -> None:
        if getattr(judge, "reference", False):
            bare = [s.uid for s in self._solutions if not (s.reference or s.answer)]
            if bare:
                got = f"{len(bare)} labelled solutions without reference and answer (first: {bare[0]})"
                raise DataError(got, "one of them to show the judge", "JudgeGateCallback", "labelled")
        if pl_module.sampler is not None:
            pl_module.sampler.push(pl_module)  # the judge may be on the policy's own engine
        f1 = judge_f1(judge, self._solutions, derive_seed(pl_module.seed, "gate", step), ledger)
        # The same score on every data-parallel rank, whatever its own engine drew: all stop, or none.
        local = torch.tensor(f1, dtype=torch.float64, device=trainer.strategy.root_device)
        self.f1 = float(trainer.strategy.reduce(local, reduce_op="mean"))
        if self.f1 < self.threshold:
            raise JudgeError(
                f"a judge with an F1 of {self.f1:.3f} on {len(self._solutions)} labelled solutions",
                f"at least {self.threshold}",
                f"JudgeGateCallback, before step {step}",
                "--critique.judge, or the gate's threshold",
            )
        log.info("judge gate: F1 %.3f on %d labelled solutions", self.f1, len(self._solutions))


def _critique(trainer: Trainer, pl_module: Any) -> tuple[StepJudge, Ledger] | None:
    """The judge that the training steps ask, and its ledger; None if nothing is weighed by it."""
    callbacks = [] if pl_module.credit.w_process == 0 else trainer.callbacks  # type: ignore[attr-defined]
    found = [c for c in callbacks if isinstance(c, CritiqueCallback)]
    return next(((c.judge, c.ledger) for c in found if c.judge is not None), None)
