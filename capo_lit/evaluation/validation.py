"""Evaluation of a policy by sampling: what `capo validate`, `capo test` and validation during `fit` report."""

import math
import warnings
from collections import defaultdict

import torch
from torch import nn
from torchmetrics import MeanMetric, Metric

from capo_lit.batch.facts import CritiquedRollout, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.evaluation.at_k import AvgAtK, MajAtK, PassAtK
from capo_lit.evaluation.interval import MeanInterval
from capo_lit.verifier.answer import final_answer
from capo_lit.verifier.exact import answer_key

_MEANS = ("step_error_frac", "first_error_step", "judge_agreement", "format_rate", "length_mean", "unknown_frac")


class Evaluation(nn.Module):
    """Metrics over sampled and greedy rollouts, reduced over data-parallel ranks by torchmetrics.

    Args:
        samples: k, sampled rollouts per problem; greedy rollouts come on top.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.at_k = nn.ModuleDict({"avg_at_k": AvgAtK(), "pass_at_k": PassAtK(samples)})
        self.majority = MajAtK()
        self.greedy = MeanInterval()
        self.means = nn.ModuleDict({name: MeanMetric() for name in _MEANS})

    def add(self, batch: StepBatch) -> None:
        """Add the rollouts of one batch, and its verdicts if it has any.

        The step error rate is the share of wrong steps among all steps of sampled rollouts.
        """
        rollouts = batch.require_rollouts()
        sampled = [rollout for rollout in rollouts if not rollout.greedy]
        answers = {r.row: final_answer(r.completion.text) for r in sampled}
        by_group: dict[int, list[Rollout]] = defaultdict(list)
        for rollout in sampled:
            by_group[rollout.group].append(rollout)
        if by_group:
            rows = [[r.outcome_or_nan for r in group] for group in by_group.values()]
            outcomes = torch.tensor(rows, dtype=torch.float32)
            for metric in self.at_k.values():
                metric.update(outcomes.to(metric.device))
            keys = {row: answer and answer_key(answer) for row, answer in answers.items()}
            self.majority.update(
                [[keys[r.row] for r in group] for group in by_group.values()],
                [[r.outcome for r in group] for group in by_group.values()],
            )
        greedy = [r.outcome for r in rollouts if r.greedy and r.outcome is not None]
        if greedy:
            self.greedy.update(torch.tensor(greedy, device=self.greedy.device))
        self._mean("format_rate", [float(answer is not None) for answer in answers.values()])
        self._mean("length_mean", [float(len(r.completion.ids)) for r in sampled])
        self._mean("unknown_frac", [float(r.outcome is None) for r in rollouts])
        if batch.has_verdicts:
            self._add_verdicts([item for item in batch.require_verdicts() if not item.rollout.greedy])

    def _add_verdicts(self, critiqued: list[CritiquedRollout]) -> None:
        errors = [item.verdict.step_error for item in critiqued]
        self._mean("step_error_frac", [error for row in errors for error in row])
        wrong = [[step for step, error in enumerate(row) if error > 0] for row in errors]
        self._mean("first_error_step", [float(steps[0]) for steps in wrong if steps])
        self._mean("judge_agreement", [item.verdict.agreement for item in critiqued if item.verdict.valid])

    def compute(self) -> dict[str, float]:
        """Values by name, without the stage's prefix; a metric that no rank has seen values of is left out."""
        metrics: dict[str, Metric] = {**self.at_k, "maj_at_k": self.majority, **self.means}  # type: ignore[dict-item]
        with warnings.catch_warnings():
            # A rank without values must still take part in the reduction.
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method.*")
            values = {name: float(metric.compute()) for name, metric in metrics.items()}
            ends = ("greedy_accuracy", "greedy_accuracy_low", "greedy_accuracy_high")
            values |= dict(zip(ends, self.greedy.compute().tolist(), strict=True))
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def reset(self) -> None:
        """Forget everything."""
        for metric in (*self.at_k.values(), self.majority, self.greedy, *self.means.values()):
            metric.reset()

    def _mean(self, name: str, values: list[float]) -> None:
        if values:
            self.means[name].update(torch.tensor(values, dtype=torch.float32))
