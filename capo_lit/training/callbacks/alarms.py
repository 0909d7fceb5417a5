"""Warns when rollouts stop looking as they did at the start: a policy that learns to dodge its judge shows there."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import check_settings
from capo_lit.evaluation.names import spec
from capo_lit.evaluation.reduction import reduced
from capo_lit.evaluation.step import critique_metrics, rollout_metrics

BANDS = {
    "rollout/steps_mean": (0.5, 2.0),
    "rollout/tokens_per_step_mean": (0.5, 2.0),
    "rollout/answer_chars_mean": (0.2, 5.0),
    "critique/wrong_step_frac": (0.05, 2.0),
}


class AlarmCallback(Callback):
    """Compares metrics of the rollouts with their mean over the run's first steps, and warns once of each that leaves.

    An alarm is no proof: a policy that learns flags fewer steps too. It says when to read the records.

    Args:
        bands: by metric of the families rollout/ and critique/, the lowest and highest multiple of its mean over the
            first steps that are no alarm; null takes those of BANDS.
        first_steps: how many steps make that mean; none of them raises an alarm.
    """

    def __init__(self, bands: dict[str, tuple[float, float]] | None = None, first_steps: int = 10) -> None:
        self.bands = dict(BANDS if bands is None else bands)
        checks = [(first_steps >= 1, f"first_steps {first_steps}", "an integer >= 1", "first_steps")]
        for name, (low, high) in self.bands.items():
            known = spec(name).name.startswith(("rollout/", "critique/"))
            checks.append((known, f"metric {name}", "one of rollout/ or critique/", "bands"))
            checks.append((0 <= low < high, f"band {low} to {high} of {name}", "0 <= low < high", "bands"))
        check_settings(checks, "AlarmCallback")
        self.first_steps = first_steps
        self._first: dict[str, list[float]] = {name: [] for name in self.bands}
        self._raised: list[str] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Compare this process's rollouts of the step, warn, and count the metrics that are out of their band."""
        if not isinstance(batch, StepBatch):
            return
        parts = rollout_metrics(batch.require_rollouts(), batch.rollout_seconds)
        if batch.has_verdicts:
            parts |= critique_metrics(batch.require_verdicts(), 0.0)
        values = reduced(parts)
        out = [name for name in self.bands if name in values and self._is_out(name, values[name], batch.step)]
        pl_module.measure({"rollout/alarms": float(len(out))})

    def state_dict(self) -> dict[str, Any]:
        """The values of the first steps, and the alarms that were raised."""
        return {"first": {name: list(values) for name, values in self._first.items()}, "raised": list(self._raised)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the start of the run that is resumed; a metric that is watched anew starts now."""
        self._first.update({name: list(values) for name, values in state_dict["first"].items() if name in self.bands})
        self._raised = list(state_dict["raised"])

    def _is_out(self, name: str, value: float, step: int) -> bool:
        first, (low, high) = self._first[name], self.bands[name]
        if len(first) < self.first_steps:
            first.append(value)
            return False
        start = sum(first) / len(first)
        out = not low * start <= value <= high * start
        if out and name not in self._raised:
            self._raised.append(name)
            rank_zero_warn(
                f"ALARM at step {step}: {name} is {value:.4g}, and was {start:.4g} over the first {len(first)} steps "
                f"(band {low * start:.4g} to {high * start:.4g}). A policy may be learning to dodge its judge: read "
                "the records"
            )
        return out
