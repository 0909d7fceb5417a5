"""Fills a batch with rollouts: syncs stale weights into the engine, samples, verifies."""

import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.core.steps import Style
from capo_lit.engines.base import Engine
from capo_lit.engines.policy import bind_policy, start_engines
from capo_lit.evaluation.cost import AsksEngine, Growth, outcome_cost, run_metrics
from capo_lit.evaluation.reduction import Parts
from capo_lit.evaluation.step import outcome_metrics, rollout_metrics
from capo_lit.training.callbacks.ledger import LedgerCallback
from capo_lit.training.rollouts import Sampler
from capo_lit.verifier.outcomes import OutcomeSource
from capo_lit.verifier.pool import Verifier


class RolloutCallback(LedgerCallback):
    """Samples g rollouts per prompt before each training step, and k samples plus a greedy one for evaluation.

    Args:
        engine: what generates; it must be able to take the policy's weights.
        group_size: g, rollouts per prompt.
        sampling: how rollouts are drawn, in training and in evaluations.
        eval_samples: k, samples per problem in validation and test, for avg@k and pass@k. Each problem is also
            answered once at temperature 0.
        seed: of the run.
        verifier: what says by rule whether an answer is right; null takes one with its defaults.
        outcomes: what says whether a training rollout is right in the verifier's place, such as a GenORM; null takes
            the verifier. Evaluations always take the verifier, so that what they report stays an accuracy by rule.
        style: how a response is cut into steps: paragraph, line or tags.
        max_abstain_frac: a training step in which a larger share of the outcomes is unknown, as no critique of them
            is valid, stops the run; that of the critiques.
    """

    def __init__(  # noqa: PLR0913  (every one is a setting of its own in a config)
        self,
        engine: Engine,
        group_size: int = 8,
        sampling: Sampling = Sampling(),
        eval_samples: int = 8,
        seed: int = 0,
        verifier: Verifier | None = None,
        outcomes: OutcomeSource | None = None,
        style: Style = "paragraph",
        max_abstain_frac: float = 0.5,
    ) -> None:
        if sampling.temperature == 0:
            raise ConfigError(
                "temperature 0",
                "a temperature > 0, since greedy groups are identical",
                change="--rollout.sampling.temperature",
            )
        if group_size < 2:
            raise ConfigError(
                f"group_size {group_size}", "at least 2 rollouts per prompt", change="--rollout.group_size"
            )
        super().__init__()
        self.sampler = Sampler(engine, style, seed)
        self.verifier, self.outcomes = verifier or Verifier(), outcomes
        if outcomes is not None:
            outcomes.max_unknown_frac = max_abstain_frac
        self.group_size, self.sampling, self.eval_samples = group_size, sampling, eval_samples
        self._sync_s = 0.0
        self._votes = Growth()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse combinations that would train on wrong numbers, before anything is generated."""
        cap = getattr(getattr(pl_module, "loss", None), "importance_cap", None)
        if stage == "fit" and cap is not None and self.sampling.truncates:
            raise ConfigError(
                f"sampling with top_p {self.sampling.top_p} and top_k {self.sampling.top_k} while the importance "
                "correction is on: the engine's probabilities are renormalised, and every ratio would be biased",
                "top_p 1 and top_k 0",
                change="--rollout.sampling, or --model.loss.importance_cap null",
            )
        pl_module.sampler = self.sampler
        bind_policy(self.outcomes, self.sampler.engine, pl_module.policy_path)
        pl_module.setup_evaluation(self.eval_samples, self.sampling)
        if trainer.world_size > 1:
            start_engines(self.sampler, self.outcomes)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the rollouts of a step; they finish while the next reader draws them from the batch."""
        if not isinstance(batch, StepBatch):  # a supervised batch has its responses already
            return
        self._started = time.perf_counter()
        self._sync(pl_module, batch)
        source, purpose = self.outcomes or self.verifier, ("rollout", batch.step)
        rollouts = self.sampler.sample(batch.prompts, self.group_size, self.sampling, source, purpose)
        batch.set_rollouts(rollouts, self.sampling)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what was sampled."""
        if isinstance(batch, StepBatch):
            values = rollout_metrics(batch.require_rollouts(), batch.rollout_seconds)
            values |= {"time/sync_s": self._sync_s, "time/step_s": time.perf_counter() - self._started}
            values |= self._outcome_metrics()
            pl_module.measure(values)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sample k rollouts and a greedy one for every problem, with seeds that are the same at every evaluation."""
        self._sync(pl_module, batch)
        rollouts = self.sampler.sample(
            batch.prompts, self.eval_samples, self.sampling, self.verifier, ("eval",), greedy=True
        )
        batch.set_rollouts(rollouts, self.sampling)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Stop the verifier's processes. Engines stay: they are built once per process."""
        self.verifier.close()
        if self.outcomes is not None:
            self.outcomes.close()

    def _outcome_metrics(self) -> Parts:
        """What a judge of outcomes did in this step, and took in the run; empty for a rule."""
        if not isinstance(self.outcomes, AsksEngine):
            return {}
        counts = self._votes.of(self.outcomes.counters)
        self.ledger.add(outcome_cost(counts))
        values = outcome_metrics(counts, self.ledger.growth(self.outcomes))
        return values | run_metrics(self.ledger.total, "outcome")

    def _sync(self, pl_module: Any, batch: StepBatch) -> None:
        started = time.perf_counter()
        if self.sampler.sync(pl_module, batch.prompts[0]):
            gap = self.sampler.probe_gap
            rank_zero_info(f"engine and trainer agree: mean |logprob difference| {gap:.1e} on a probe")
        self._sync_s = time.perf_counter() - started
