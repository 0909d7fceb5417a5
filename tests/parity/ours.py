"""Our policy loss on the fixed rows."""

from typing import Any

import torch

from capo_lit.core.loss import policy_loss
from tests.parity.fixed import MAX_LENGTH, Fixed


def fixed_loss(
    fixed: Fixed, advantages: torch.Tensor, mask: torch.Tensor, rows: slice = slice(None), **settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Our loss () of those rows, and its gradient (n, t, v) with respect to the fixed logits.

    Args:
        fixed: the batch.
        advantages: (n,) or (n, t).
        mask: (n, t) bool.
        rows: of them.
        settings: of policy_loss; a KL term is to the fixed reference.
    """
    logits = fixed.logits.clone().requires_grad_()
    adv = advantages if advantages.dim() == 2 else advantages[:, None].expand(mask.shape)
    if settings.get("kl_coef"):
        settings["ref_logprobs"] = fixed.reference[rows]
    loss, _ = policy_loss(
        fixed.logprobs(logits)[rows], fixed.old[rows], adv[rows], mask[rows], max_length=MAX_LENGTH, **settings
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    return loss.detach(), gradient
