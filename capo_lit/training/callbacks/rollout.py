"""Fills a batch with rollouts: syncs stale weights into the engine, samples, verifies."""

import time
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.core.steps import Style
from capo_lit.data.loader import PromptLoader
from capo_lit.engines.base import Engine
from capo_lit.engines.policy import bind_policy, start_engines
from capo_lit.evaluation.cost import AsksEngine, Growth, outcome_cost, run_metrics
from capo_lit.evaluation.reduction import Parts
from capo_lit.evaluation.step import outcome_metrics, rollout_metrics
from capo_lit.training.ahead import Ahead
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.ledger import LedgerCallback
from capo_lit.training.rollouts import Sampler
from capo_lit.verifier.outcomes import OutcomeSource
from capo_lit.verifier.pool import Verifier

_AHEAD = "rollouts_ahead"  # in checkpoints


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
        ahead: 1 samples and judges the next step's batch while this one trains, with weights that are one step old;
            the importance correction accounts for it. It needs engines that run beside the trainer (VLLMServers for the
            policy, a server for the judge). 0 samples every batch with the weights that it trains.
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
        ahead: Literal[0, 1] = 0,
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
        if ahead and engine.stands_still:
            raise ConfigError(
                f"ahead {ahead} with {type(engine).__name__}, which moves only while the trainer waits for it",
                "an engine that runs beside the trainer, or ahead 0",
                change="--rollout.engine (capo_lit.VLLMServers), or --rollout.ahead 0",
            )
        super().__init__()
        self.sampler = Sampler(engine, style, seed)
        self.verifier, self.outcomes = verifier or Verifier(), outcomes
        if outcomes is not None:
            outcomes.max_unknown_frac = max_abstain_frac
        self.group_size, self.sampling, self.eval_samples = group_size, sampling, eval_samples
        self._sync_s = 0.0
        self._ahead_wait_s = 0.0
        self._votes = Growth()
        self._critique: CritiqueCallback | None = None
        self._ahead = Ahead(self._gather) if ahead else None
        if self._ahead is not None:
            self.sampler.before_push = self._ahead.wait

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
        self.sampler.follow(pl_module)
        if self.sampler.engine.log_folder is None:
            self.sampler.engine.log_folder = Path(trainer.default_root_dir) / "servers"
        bind_policy(self.outcomes, self.sampler.engine, pl_module.policy_path)
        pl_module.setup_evaluation(self.eval_samples, self.sampling)
        if trainer.world_size > 1:
            start_engines(self.sampler, self.outcomes)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse to sample ahead where something would stand still meanwhile, or be trained on uncorrected."""
        if self._ahead is not None:
            self._critique = _check_ahead(trainer, pl_module, self.outcomes)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the rollouts of a step; they finish while the next reader draws them from the batch."""
        if not isinstance(batch, StepBatch):  # a supervised batch has its responses already
            return
        self._started = time.perf_counter()
        if self._ahead is not None:
            self._take(self._ahead, trainer, pl_module, batch)
            return
        self._sync(pl_module, batch)
        self._sample(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure what was sampled."""
        if isinstance(batch, StepBatch):
            values = rollout_metrics(batch.require_rollouts(), batch.rollout_seconds)
            values |= {"time/sync_s": self._sync_s, "time/step_s": time.perf_counter() - self._started}
            if self._ahead is None:
                self._count_outcomes(batch)
            else:
                values["time/ahead_wait_s"] = self._ahead_wait_s
            values |= self._outcome_metrics(batch)
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
        if self._ahead is not None:
            self._ahead.drop()
        self.verifier.close()
        if self.outcomes is not None:
            self.outcomes.close()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Save what was gathered ahead: the weights that it came from are gone when the run resumes."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._ahead is not None:
            checkpoint[_AHEAD] = self._ahead.state()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with what was gathered ahead.

        Raises:
            ConfigError: if there is any, and ahead is 0.
        """
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        states = checkpoint.get(_AHEAD, [])
        if self._ahead is not None:
            self._ahead.restore(states)
        elif states and trainer.state.fn == TrainerFn.FITTING:
            raise ConfigError(
                "a checkpoint of a run with ahead 1", "ahead 1 to go on with it", change="--rollout.ahead"
            )

    def _take(self, ahead: Ahead, trainer: Trainer, pl_module: Any, batch: StepBatch) -> None:
        """Fill a batch with what was gathered for it, then push, and start on the next."""
        if not ahead.take(batch):  # the first step of a run
            self._sync(pl_module, batch)
            first = StepBatch(batch.prompts, batch.step)
            ahead.launch(first)
            ahead.take(batch)
        self._ahead_wait_s = time.perf_counter() - self._started
        self._sync(pl_module, batch)
        if not _is_last(trainer, pl_module, len(batch.require_rollouts())):
            ahead.launch(trainer.train_dataloader.peek())  # type: ignore[union-attr]  # a PromptLoader

    def _gather(self, batch: StepBatch) -> None:
        """Fill a batch with rollouts and verdicts, in a thread of its own."""
        self._sample(batch)
        if self._critique is not None:
            self._critique.judge_batch(batch)
        batch.require_rollouts()
        self._count_outcomes(batch)

    def _sample(self, batch: StepBatch) -> None:
        source, purpose = self.outcomes or self.verifier, ("rollout", batch.step)
        rollouts = self.sampler.sample(batch.prompts, self.group_size, self.sampling, source, purpose)
        batch.set_rollouts(rollouts, self.sampling)

    def _count_outcomes(self, batch: StepBatch) -> None:
        if isinstance(self.outcomes, AsksEngine):
            batch.outcome_counts = self._votes.of(self.outcomes.counters)

    def _outcome_metrics(self, batch: StepBatch) -> Parts:
        """What a judge of outcomes did in this step, and took in the run; empty for a rule."""
        if not isinstance(self.outcomes, AsksEngine):
            return {}
        self.ledger.add(outcome_cost(batch.outcome_counts))
        values = outcome_metrics(batch.outcome_counts, self.ledger.growth(self.outcomes))
        return values | run_metrics(self.ledger.total, "outcome")

    def _sync(self, pl_module: Any, batch: StepBatch) -> None:
        started = time.perf_counter()
        if self.sampler.sync(pl_module, batch.prompts[0]):
            gap = self.sampler.probe_gap
            rank_zero_info(f"engine and trainer agree: mean |logprob difference| {gap:.1e} on a probe")
        self._sync_s = time.perf_counter() - started


def _check_ahead(trainer: Trainer, pl_module: Any, outcomes: object) -> CritiqueCallback | None:
    """Refuse what cannot be gathered while the policy trains, or would be trained on uncorrected.

    Returns:
        The callback whose judge is asked.
    """
    found = [one for one in trainer.callbacks if isinstance(one, CritiqueCallback)]  # type: ignore[attr-defined]
    critique = found[0] if found else None
    if getattr(getattr(pl_module, "loss", None), "importance_cap", None) is None:
        got, change = "ahead 1 with importance_cap null", "--model.loss.importance_cap 2.0, or --rollout.ahead 0"
        raise ConfigError(got, "the importance correction, since the rollouts are one step old", change=change)
    for name, judge in (("critique.judge", critique and critique.judge), ("rollout.outcomes", outcomes)):
        if isinstance(judge, AsksEngine) and judge.engine.stands_still:
            raise ConfigError(
                f"ahead 1 with a judge in {type(judge.engine).__name__}, which moves only while the trainer waits",
                "a judge on a server",
                change=f"--{name}.engine (capo_lit.HTTPEngine), or --rollout.ahead 0",
            )
    if not isinstance(trainer.train_dataloader, PromptLoader):
        got = f"ahead 1 with batches from {type(trainer.train_dataloader).__name__}"
        raise ConfigError(got, "a loader whose next batch can be seen", change="--data (capo_lit.PromptDataModule)")
    return critique


def _is_last(trainer: Trainer, pl_module: Any, rows: int) -> bool:
    """Whether no step comes after this one, as far as can be known before it."""
    update = pl_module.update
    steps = trainer.global_step + update.epochs * min(update.minibatches, rows)
    if 0 <= trainer.max_steps <= steps:
        return True
    epochs = trainer.max_epochs
    return epochs is not None and 0 <= epochs <= trainer.current_epoch + 1 and trainer.is_last_batch
