"""Evaluation of a policy by sampling: what `capo validate`, `capo test` and validation during `fit` report."""

import math
import warnings
from collections import defaultdict

import torch
from torch import nn
from torchmetrics import MeanMetric, Metric

from capo_lit.batch import Rollout, StepBatch
from capo_lit.metrics_at_k import AvgAtK, PassAtK
from capo_lit.verify_answer import final_answer


class Evaluation(nn.Module):
    """Metrics over sampled and greedy rollouts, reduced over data-parallel ranks by torchmetrics.

    Args:
        samples: k, sampled rollouts per problem; greedy rollouts come on top.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.at_k = nn.ModuleDict({"avg_at_k": AvgAtK(), "pass_at_k": PassAtK(samples)})
        names = ("greedy_accuracy", "step_error_frac", "format_rate", "length_mean", "unknown_frac")
        self.means = nn.ModuleDict({name: MeanMetric() for name in names})

    def add(self, batch: StepBatch) -> None:
        """Add the rollouts of one batch, and its verdicts if it has any.

        The step error rate is the share of wrong steps among all steps of sampled rollouts.
        """
        rollouts = batch.require_rollouts()
        sampled = [rollout for rollout in rollouts if not rollout.greedy]
        by_group: dict[int, list[Rollout]] = defaultdict(list)
        for rollout in sampled:
            by_group[rollout.group].append(rollout)
        if by_group:
            rows = [[r.outcome_or_nan for r in group] for group in by_group.values()]
            outcomes = torch.tensor(rows, dtype=torch.float32)
            for metric in self.at_k.values():
                metric.update(outcomes.to(metric.device))
        self._mean("greedy_accuracy", [r.outcome for r in rollouts if r.greedy and r.outcome is not None])
        self._mean("format_rate", [float(final_answer(r.completion.text, bare=False) is not None) for r in sampled])
        self._mean("length_mean", [float(len(r.completion.ids)) for r in sampled])
        self._mean("unknown_frac", [float(r.outcome is None) for r in rollouts])
        if batch.has_verdicts:
            critiqued = [item for item in batch.require_verdicts() if not item.rollout.greedy]
            self._mean("step_error_frac", [error for item in critiqued for error in item.verdict.step_error])

    def compute(self) -> dict[str, float]:
        """Values by name, without the stage's prefix; a metric that no rank has seen values of is left out."""
        metrics: dict[str, Metric] = {**self.at_k, **self.means}  # type: ignore[dict-item]
        with warnings.catch_warnings():
            # A rank without values must still take part in the reduction.
            warnings.filterwarnings("ignore", ".*was called before the ``update`` method.*")
            values = {name: float(metric.compute()) for name, metric in metrics.items()}
        return {name: value for name, value in values.items() if not math.isnan(value)}

    def reset(self) -> None:
        """Forget everything."""
        for metric in (*self.at_k.values(), *self.means.values()):
            metric.reset()

    def _mean(self, name: str, values: list[float]) -> None:
        if values:
            self.means[name].update(torch.tensor(values, dtype=torch.float32))
