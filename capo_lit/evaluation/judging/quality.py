"""How well a judge finds wrong steps, against steps that are known to be wrong; reduced over data-parallel ranks."""

from collections.abc import Sequence

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryF1Score, BinaryPrecision, BinaryRecall

from capo_lit.batch.facts import CritiquedRollout
from capo_lit.core.errors import BatchError


class JudgeQuality(nn.Module):
    """Precision, recall and F1 over all steps of all judged rollouts; a step error of 0.5 or more is a flag.

    A rollout without a valid critique flags nothing: its wrong steps count against the recall.
    """

    def __init__(self) -> None:
        super().__init__()
        metrics: dict[str, Metric | MetricCollection] = {
            "judge_precision": BinaryPrecision(),
            "judge_recall": BinaryRecall(),
            "judge_f1": BinaryF1Score(),
        }
        self.metrics = MetricCollection(metrics)

    def add(self, judged: Sequence[CritiquedRollout], known: Sequence[CritiquedRollout]) -> None:
        """Compare two verdicts on the same rollouts.

        Args:
            judged: by the judge that is measured.
            known: by what says which steps are wrong; the same rollouts in the same order.

        Raises:
            BatchError: if rollouts or numbers of steps differ.
        """
        flags, truth = (
            [[error >= 0.5 for error in item.verdict.step_error] for item in side] for side in (judged, known)
        )
        if [len(row) for row in flags] != [len(row) for row in truth]:
            raise BatchError("verdicts on other rollouts or other steps", "the same for both judges", "JudgeQuality")
        flat = [torch.tensor([flag for row in side for flag in row], dtype=torch.long) for side in (flags, truth)]
        if len(flat[0]):
            device = next(iter(self.metrics.values())).device
            self.metrics.update(flat[0].to(device), flat[1].to(device))

    def compute(self) -> dict[str, float]:
        """judge_precision, judge_recall and judge_f1, in [0, 1]; 0 where nothing was flagged or nothing is wrong."""
        return {name: float(value) for name, value in self.metrics.compute().items()}

    def reset(self) -> None:
        """Forget everything."""
        self.metrics.reset()
