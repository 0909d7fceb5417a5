"""TRL's own GRPOTrainer on a tiny Llama; nothing of TRL is restated here.

Generation alone is replaced, through TRL's `rollout_func`, and rewards come from a reward function, as users give them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

from tests.parity.fixed import Fixed


class Answers(torch.nn.Module):
    """A model that gives the logprobs it was made with, whatever it is asked."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: torch.Tensor) -> None:
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=self.logprobs, entropy=torch.zeros_like(self.logprobs))


def make_trainer(
    folder: Path,
    rollouts: Sequence[tuple[Sequence[int], Sequence[int], Sequence[float]]] = (),
    rewards: Sequence[float | None] = (),
    trainer_class: type | None = None,
    **settings: Any,
) -> Any:
    """TRL's trainer of the Llama in `folder`.

    Args:
        folder: holds the model and its tokenizer.
        rollouts: (prompt ids, completion ids, engine logprobs) that its generation shall give.
        rewards: of each; None where no reward function could say.
        trainer_class: GRPOTrainer or a subclass.
        settings: of GRPOConfig, over float32 on the CPU, one optimizer step over all rollouts in one micro-batch.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    defaults = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_dropout": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "per_device_train_batch_size": max(len(rollouts), 2),
        "num_generations": 4 if rollouts else 2,
    }
    prompts, completions, logprobs = zip(*rollouts, strict=True) if rollouts else ((), (), ())
    return (trainer_class or GRPOTrainer)(
        model=str(folder),
        reward_funcs=lambda **_: list(rewards),
        args=GRPOConfig(**(defaults | settings)),
        train_dataset=Dataset.from_dict({"prompt": ["w1"] * max(len(rollouts), 2)}),
        rollout_func=lambda *_: {
            "prompt_ids": [list(ids) for ids in prompts],
            "completion_ids": [list(ids) for ids in completions],
            "logprobs": [list(row) for row in logprobs],
        },
    )


def score(trainer: Any, rows: int) -> dict[str, torch.Tensor]:
    """TRL's padded batch of the rollouts, with its advantages, in train mode."""
    trainer.model.train()
    return trainer._generate_and_score_completions([{"prompt": "w1"}] * rows)


def score_fixed(
    folder: Path, fixed: Fixed, rewards: Sequence[float | None], **settings: Any
) -> dict[str, torch.Tensor]:
    """TRL's padded batch of the fixed rows as if vLLM had sampled them; the model's own logprobs are `fixed.old`.

    With TRL's advantages, and its importance weights in the mode and between the bounds that `settings` say.
    """
    lengths = fixed.mask.sum(1).tolist()
    rows = list(zip(fixed.ids.tolist(), fixed.engine.tolist(), lengths, strict=True))
    trainer = make_trainer(folder, [([0], ids[:n], engine[:n]) for ids, engine, n in rows], rewards, **settings)
    vllm = mock.patch.multiple(trainer, use_vllm=True, _last_loaded_step=trainer.state.global_step, create=True)
    with vllm, mock.patch.object(trainer, "model", Answers(fixed.old)):
        return score(trainer, len(rows))


def loss_inputs(fixed: Fixed, advantages: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What TRL's `_compute_loss` reads, for the fixed rows; its token count is the mask's."""
    return {
        "prompt_ids": fixed.ids.new_zeros(len(mask), 1),
        "prompt_mask": fixed.ids.new_ones(len(mask), 1),
        "completion_ids": fixed.ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "num_items_in_batch": mask.sum(),
        "old_per_token_logps": fixed.old,
        "ref_per_token_logps": fixed.reference,
    }


def pick(inputs: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    """Some rows of a batch; its scalars stay."""
    return {name: value[rows] if value.dim() else value for name, value in inputs.items()}


@contextmanager
def configured(trainer: Any, steps: tuple[int, int] | None = None, **settings: Any) -> Iterator[None]:
    """The trainer under other settings of its loss; (accumulation, generation) steps put it in train mode."""
    known = {name: settings.pop(name) for name in ("delta", "use_bias_correction_kl") if name in settings}
    accumulation, generation = steps or (1, 1)
    trainer.model.train(steps is not None)
    with (
        mock.patch.multiple(trainer.args, steps_per_generation=generation, **known),
        mock.patch.multiple(trainer, current_gradient_accumulation_steps=accumulation, create=True, **settings),
    ):
        yield


def loss_and_gradient(
    trainer: Any, fixed: Fixed, inputs: dict[str, torch.Tensor], rows: slice = slice(None)
) -> tuple[torch.Tensor, torch.Tensor]:
    """TRL's loss () of those rows, and its gradient (n, t, v) with respect to the fixed logits."""
    logits = fixed.logits.clone().requires_grad_()
    loss = trainer._compute_loss(Answers(fixed.logprobs(logits)[rows]), pick(inputs, rows))
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient
