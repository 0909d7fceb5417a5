"""Fills a batch with rollouts: syncs stale weights into the engine, samples, verifies."""

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info

from capo_lit.batch import StepBatch
from capo_lit.callbacks.ledger import AsksEngine, Growth, Ledger, cost_metrics, outcome_cost
from capo_lit.callbacks.rollout_metrics import outcome_metrics, rollout_metrics
from capo_lit.engines.base import Engine, SyncsWeights
from capo_lit.engines.policy import bind_policy
from capo_lit.errors import ConfigError
from capo_lit.outcomes import OutcomeSource
from capo_lit.policy import PolicyModule
from capo_lit.rollouts import Draw, probe_gap, stream_rollouts
from capo_lit.sampling import Sampling
from capo_lit.seeding import derive_seed
from capo_lit.verifier import Verifier


class RolloutCallback(Callback):
    """Samples g rollouts per prompt before each training step, and k samples plus a greedy one for evaluation.

    Args:
        engine: what generates; it must be able to take the policy's weights.
        verifier: what says by rule whether an answer is right.
        group_size: g, rollouts per prompt.
        sampling: how training rollouts are drawn.
        eval_samples: k, samples per problem in validation and test, for avg@k and pass@k.
        eval_sampling: how they are drawn; each problem is also answered once at temperature 0.
        max_probe_gap: largest mean |engine - trainer| logprob tolerated after the first weight push; null takes 1e-3
            where both compute in fp32 and 0.15 elsewhere.
        seed: of the run.
        outcomes: what says whether a training rollout is right in the verifier's place, such as a GenORM; null takes
            the verifier. Evaluations always take the verifier, so that what they report stays an accuracy by rule.
    """

    def __init__(  # noqa: PLR0913  (every one is a setting of its own in a config)
        self,
        engine: Engine,
        verifier: Verifier,
        group_size: int = 8,
        sampling: Sampling = Sampling(),
        eval_samples: int = 8,
        eval_sampling: Sampling = Sampling(),
        max_probe_gap: float | None = None,
        seed: int = 0,
        outcomes: OutcomeSource | None = None,
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
        self.engine, self.verifier, self.outcomes, self.seed = engine, verifier, outcomes, seed
        self.group_size, self.sampling = group_size, sampling
        self.eval_samples, self.eval_sampling = eval_samples, eval_sampling
        self.max_probe_gap = max_probe_gap
        self._probed = False
        self._sync_s = 0.0
        self._outcome_ledger, self._votes = Ledger(), Growth()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse combinations that would train on wrong numbers, before anything is generated."""
        if not isinstance(self.engine, SyncsWeights):
            raise ConfigError(
                f"engine {type(self.engine).__name__}, whose weights cannot follow the policy's",
                "an engine that syncs weights (VLLMEngine, HFEngine)",
                change="--rollout.engine",
            )
        cap = getattr(getattr(pl_module, "loss", None), "importance_cap", None)
        if stage == "fit" and cap is not None and self.sampling.truncates:
            raise ConfigError(
                f"sampling with top_p {self.sampling.top_p} and top_k {self.sampling.top_k} while the importance "
                "correction is on: the engine's probabilities are renormalised, and every ratio would be biased",
                "top_p 1 and top_k 0",
                change="--rollout.sampling, or --model.loss.importance_cap null",
            )
        bind_policy(self.outcomes, self.engine, pl_module.policy_path)
        pl_module.setup_evaluation(self.eval_samples)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the rollouts of a step; they finish while the next reader draws them from the batch."""
        if not isinstance(batch, StepBatch):  # a supervised batch has its responses already
            return
        self._started = time.perf_counter()
        self._sync(pl_module, batch)
        draws = self._draws(batch, self.group_size, self.sampling, ("rollout", batch.step))
        batch.set_rollouts(stream_rollouts(self.engine, self.outcomes or self.verifier, draws), self.sampling)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what was sampled."""
        if isinstance(batch, StepBatch):
            values = rollout_metrics(batch.require_rollouts(), batch.rollout_seconds)
            values |= {"time/sync_s": self._sync_s, "time/step_s": time.perf_counter() - self._started}
            values |= self._outcome_metrics()
            pl_module.log_metrics(values, len(batch))

    def state_dict(self) -> dict[str, float]:
        """What the judge of outcomes has taken so far, for the checkpoint."""
        return dict(self._outcome_ledger.total)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on with the ledger of the run that is resumed."""
        self._outcome_ledger.total = dict(state_dict)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Sample k rollouts and a greedy one for every problem, with seeds that are the same at every evaluation."""
        self._sync(pl_module, batch)
        draws = self._draws(batch, self.eval_samples, self.eval_sampling, ("eval",))
        greedy = Sampling(temperature=0.0, max_tokens=self.eval_sampling.max_tokens)
        draws += [
            Draw(len(draws) + group, group, self.eval_samples, prompt, greedy, 0)
            for group, prompt in enumerate(batch.prompts)
        ]
        batch.set_rollouts(stream_rollouts(self.engine, self.verifier, draws), self.eval_sampling)

    on_test_batch_start = on_validation_batch_start
    on_predict_batch_start = on_validation_batch_start

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Stop the verifier's processes. Engines stay: they are built once per process."""
        self.verifier.close()
        if self.outcomes is not None:
            self.outcomes.close()

    def _outcome_metrics(self) -> dict[str, float]:
        """What a judge of outcomes did in this step, and in the run; empty for a rule."""
        if not isinstance(self.outcomes, AsksEngine):
            return {}
        counts, ledger = self._votes.of(self.outcomes.counters), self._outcome_ledger
        ledger.add(outcome_cost(counts))
        values = outcome_metrics(counts, ledger.add_engine(self.outcomes))
        return values | cost_metrics(ledger.total, "outcome", "_run")

    def _draws(self, batch: StepBatch, samples: int, sampling: Sampling, purpose: Sequence[int | str]) -> list[Draw]:
        return [
            Draw(
                group * samples + sample,
                group,
                sample,
                prompt,
                sampling,
                derive_seed(self.seed, *purpose, prompt.uid, sample),
            )
            for group, prompt in enumerate(batch.prompts)
            for sample in range(samples)
        ]

    def push(self, pl_module: PolicyModule) -> None:
        """Bring the engine to the policy's weights, if it has others."""
        if self.engine.version != pl_module.version:
            self.engine.load_weights(pl_module.engine_weights(), pl_module.version)  # type: ignore[attr-defined]

    def _sync(self, pl_module: PolicyModule, batch: StepBatch) -> None:
        started = time.perf_counter()
        self.push(pl_module)
        if not self._probed:
            gap = probe_gap(self.engine, pl_module, batch.prompts[0], self.max_probe_gap)
            rank_zero_info(f"engine and trainer agree: mean |logprob difference| {gap:.1e} on a probe")
            self._probed = True
        self._sync_s = time.perf_counter() - started


def rollout_callback(trainer: Trainer) -> RolloutCallback | None:
    """The RolloutCallback of a Trainer, whose engine other callbacks use too; None if it has none."""
    found = (callback for callback in trainer.callbacks if isinstance(callback, RolloutCallback))  # type: ignore[attr-defined]
    return next(found, None)
