"""What every trainable policy shares: loading, optimizer, scoring, evaluation and export. CapoModule and SFTModule
add their losses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from capo_lit.batch.facts import Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, UpdateError
from capo_lit.core.microbatches import Ids, plan_microbatches, tally
from capo_lit.core.seeding import derive_seed
from capo_lit.engines.base import Adapters
from capo_lit.evaluation.names import check_names, spec
from capo_lit.evaluation.reduction import Mean, Part, check_parts, reduced
from capo_lit.evaluation.validation import Evaluation
from capo_lit.training.loading import is_deferred, load_policy
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.lora import adapters_of, adapters_only, add_adapters, base_weights, halve_base, merged_weights
from capo_lit.training.packing import can_pack
from capo_lit.training.rollouts import Sampler
from capo_lit.training.settings import OptimConfig, UpdateConfig, lr_factor
from capo_lit.training.sharding import even_plan, gathered_state, is_sharded, load_sharded, sharding_mesh

_BETAS = (0.9, 0.999)  # of AdamW; the paper gives none


class PolicyModule(LightningModule):
    """A causal LM that is trained by hand-driven optimizer steps and evaluated by sampling.

    Args:
        policy: directory or hub id of a Hugging Face causal LM.
        optim: optimizer and schedule.
        update: micro-batches and memory.
        seed: of the run; every random number derives from it and the step.
        lora_rank: of adapters, which alone are trained then; 0 trains all weights.

    Attributes:
        sampler: whose engine follows these weights; RolloutCallback sets it, and other callbacks use it too.
        evaluated_by: how evaluations sample, for their manifests.
    """

    def __init__(self, policy: str, optim: OptimConfig, update: UpdateConfig, seed: int, lora_rank: int = 0) -> None:
        super().__init__()
        if lora_rank < 0:
            raise ConfigError(
                f"lora_rank {lora_rank}", "an integer >= 0; 0 has no adapters", change="--model.lora_rank"
            )
        # Manual, so that one Lightning batch is one batch of rollouts whatever the number of optimizer steps.
        self.automatic_optimization = False
        self.policy_path, self.optim, self.update, self.seed, self.lora_rank = policy, optim, update, seed, lora_rank
        self.policy: Any = None if is_deferred() else self._load()
        self.strict_loading = not lora_rank  # the frozen weights are in no checkpoint
        # In the state dict: a policy loaded alone, by `capo validate`, knows its version too.
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.updates: torch.Tensor
        self.sampler: Sampler | None = None
        self.evaluation: Evaluation | None = None
        self.evaluated_by: dict[str, Any] = {}
        self.last_lr = 0.0
        self._parts: dict[str, Part] = {}

    def configure_model(self) -> None:
        """Put the policy in shards where the Trainer's strategy has it so, or load it if that was left to now."""
        mesh, checkpointing = self._mesh, self.update.gradient_checkpointing
        if mesh is not None and self.lora_rank:
            raise ConfigError(
                "adapters on a policy in shards",
                "one of the two: adapters on a policy that each process holds whole, or shards of all weights",
                change="--model.lora_rank 0, or --trainer.strategy ddp",
            )
        if mesh is None:
            self.policy = self.policy or self._load()
        elif not is_sharded(self.policy):
            self.policy = load_sharded(self.policy_path, mesh, self._bf16, checkpointing, self.policy)
        if self.lora_rank and self._trainer and self._bf16:
            halve_base(self.policy)

    def _load(self) -> Any:
        model = load_policy(self.policy_path, self.update.gradient_checkpointing)
        return model if not self.lora_rank else add_adapters(model, self.lora_rank, self.seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen weights out of a checkpoint of adapters: they are those of `policy`."""
        if self.lora_rank:
            checkpoint["state_dict"] = adapters_only(checkpoint["state_dict"], self.policy, "policy.")

    def load_initial(self) -> Any:
        """Once more the model that training starts from, whole or in shards as the policy is."""
        mesh = self._mesh
        return load_policy(self.policy_path) if mesh is None else load_sharded(self.policy_path, mesh, self._bf16)

    @property
    def _mesh(self) -> DeviceMesh | None:
        return sharding_mesh(self._trainer.strategy if self._trainer else None)

    @property
    def _bf16(self) -> bool:
        return self.trainer.precision == "bf16-mixed"

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of the forward pass; under bf16-mixed another than the weights'."""
        return torch.bfloat16 if self._bf16 else self.policy.dtype

    def microbatches(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[list[int]]:
        """Rows of each micro-batch, see `plan_microbatches`; equally many on every process if the policy is sharded.

        Args:
            prompts: token ids of each row's prompt.
            responses: token ids of each row's response.
        """
        plan = self._plan(prompts, responses)
        return even_plan(plan, self.trainer.strategy) if is_sharded(self.policy) else plan

    def padding(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> Mean:
        """The padding of those rows' micro-batches, by the tokens that they compute."""
        plan, packable = self._plan(prompts, responses), can_pack(self.policy)
        sizes = [tally([prompts[row] for row in rows], [responses[row] for row in rows], packable) for rows in plan]
        return Mean(sum(size.padding for size in sizes), sum(size.computed for size in sizes))

    def _plan(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> list[list[int]]:
        lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
        return plan_microbatches(lengths, self.update.tokens_per_microbatch, prompts if can_pack(self.policy) else None)

    @property
    def version(self) -> int:
        """Policy version: optimizer steps that the weights have seen."""
        return int(self.updates)

    def engine_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and detached tensors, as an engine that loads this architecture expects them; adapters are merged.

        A sharded policy is gathered one tensor at a time: every process draws all of them.
        """
        if self.lora_rank:
            yield from merged_weights(self.policy)
            return
        for name, parameter in self.policy.named_parameters():
            tensor = parameter.detach()
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def engine_adapters(self) -> Adapters | None:
        """The adapters, for an engine that holds them; None without, and before the policy is loaded."""
        return adapters_of(self.policy) if self.lora_rank and self.policy is not None else None

    def engine_base(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and detached tensors of the frozen weights below the adapters, as `engine_weights` has them."""
        return base_weights(self.policy)

    def rest_engine(self) -> None:
        """Before an update: it has the memory of the engine, which comes back with the next push."""
        if self.sampler is not None:
            self.sampler.rest()

    def measure(self, parts: Mapping[str, Part]) -> None:
        """Note what this process knows of the step's metrics; all are reduced together when the step ends."""
        check_parts(parts)
        self._parts |= parts

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Exchange the step's metrics, once, after all callbacks have measured, and log them."""
        parts, self._parts = self._parts, {}
        strategy = self.trainer.strategy
        values = reduced(parts, lambda row: strategy.all_gather(row.to(strategy.root_device)))
        self.log_metrics(values, len(batch))

    def log_metrics(self, values: dict[str, float], batch_size: int) -> None:
        """Log values whose names evaluation/names.py defines, and which are the same on every process."""
        # The x-axis of every logger: optimizer steps, and not Lightning's count of batches from 0.
        self.log("step", float(self.version), batch_size=batch_size)
        for name, value in check_names(values).items():
            self.log(name, value, prog_bar=spec(name).prog_bar, batch_size=batch_size)

    @torch.inference_mode(False)  # of validation: gathered weights of a sharded policy must not stay inference tensors
    @torch.no_grad()
    def score(
        self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """The trainer's own logprobs of responses, for comparison with an engine's.

        Args:
            prompts: r prompts.
            responses: r sequences of token ids.
            temperature: that they were sampled at.

        Returns:
            r lists of natural-log probabilities.
        """
        scores: list[list[float]] = [[] for _ in responses]
        for rows in self.microbatches([prompt.ids for prompt in prompts], responses):
            picked = [responses[row] for row in rows]
            with self.trainer.precision_plugin.forward_context():
                logprobs, _ = response_logprobs(self.policy, [prompts[row].ids for row in rows], picked, temperature)
            for row, line, response in zip(rows, logprobs.tolist(), picked, strict=True):
                scores[row] = line[: len(response)]
        return scores

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Draw this step's random numbers from the step itself, so that a resumed run draws the same."""
        torch.manual_seed(derive_seed(self.seed, "update", batch.step, self.global_rank))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """What the optimizer trains."""
        return self.decay_groups(self.policy, self.optim.lr)

    def decay_groups(self, model: torch.nn.Module, lr: float) -> list[dict[str, Any]]:
        """A model's parameters as groups of the optimizer; only matrices are decayed."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "lr": lr, "weight_decay": self.optim.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
        ]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and schedule, stepped once per optimizer step."""
        config = self.optim
        # One kernel for all on a GPU: the default there holds a copy of every parameter meanwhile.
        fused = True if self.device.type == "cuda" else None
        optimizer = torch.optim.AdamW(self.parameter_groups(), betas=_BETAS, fused=fused)
        # A dry run has too few steps for a schedule, whose settings are not at fault.
        schedule = "constant" if self.trainer.fast_dev_run else config.schedule  # type: ignore[attr-defined]
        factor = lr_factor(schedule, config.warmup_steps, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor)}

    def apply_gradient(self, optimizer: LightningOptimizer) -> float:
        """Clip, step, advance the schedule and the version.

        Returns:
            The gradient's norm before clipping.

        Raises:
            UpdateError: if the norm is not finite; the weights are left as they were.
        """
        norm = self.clip_gradient(self.policy)
        self.last_lr = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.updates += 1
        return norm

    def clip_gradient(self, model: torch.nn.Module) -> float:
        """Scale the gradient of one model down to optim.grad_clip.

        Returns:
            Its norm before.

        Raises:
            UpdateError: if the norm is not finite.
        """
        limit = self.optim.grad_clip or float("inf")
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if not norm < float("inf"):
            raise UpdateError(
                f"a gradient of norm {norm}",
                "a finite gradient",
                f"policy version {self.version}",
                "--model.optim.lr (lower) or --trainer.precision (32-true); the last checkpoint is intact",
            )
        return norm

    def setup_evaluation(self, samples: int, sampling: Sampling) -> None:
        """Prepare avg@k and pass@k for `samples` samples of every problem."""
        self.evaluated_by = {"samples": samples, **asdict(sampling)}
        self.evaluation = Evaluation(samples).to(self.device)

    def validation_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Add one batch of rollouts to the metrics under val/."""
        self._evaluation().add(batch)

    def test_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Add one batch of rollouts to the metrics under test/."""
        self._evaluation().add(batch)

    def predict_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Wait for the rollouts of one batch; RecordCallback writes them."""
        batch.require_rollouts()

    def on_validation_epoch_end(self) -> None:
        """Log the metrics under val/."""
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the metrics under test/."""
        self._log_evaluation("test")

    def export(self, directory: Path) -> None:
        """Save the policy as a Hugging Face directory (weights only; the tokenizer is the caller's).

        The first process writes; every process must call this, since shards are gathered.
        """
        state = gathered_state(self.policy) if is_sharded(self.policy) else None
        if self.lora_rank:
            state = dict(merged_weights(self.policy))
        if self.global_rank == 0:
            self.policy.save_pretrained(directory, state_dict=state)

    def _evaluation(self) -> Evaluation:
        if self.evaluation is None:
            raise ConfigError(
                "validation without rollouts",
                "RolloutCallback among the Trainer's callbacks",
                change="add capo_lit.RolloutCallback",
            )
        return self.evaluation

    def _log_evaluation(self, stage: str) -> None:
        evaluation = self._evaluation()
        values = {f"{stage}/{name}": value for name, value in evaluation.compute().items()}
        # torchmetrics has reduced them over ranks: every rank logs the same numbers.
        self.log_metrics(values, batch_size=1)
        evaluation.reset()
