"""The value function of PPO: what the policy's tokens so far are worth."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch

from capo_lit.core.microbatches import Ids
from capo_lit.training.logprobs import as_rows, states_before


class ValueModel(torch.nn.Module):
    """A scalar head on a copy of the policy's backbone.

    A copy and not the policy's own: the value's errors would otherwise move the policy, and its weights would go to
    the engine and the export. It costs the memory of a second model. The head starts at zero, so that every value
    does, and the first advantages with lam 1 are the returns themselves.

    Args:
        policy: a Hugging Face causal LM, which is copied and left as it is.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.backbone = deepcopy(policy.base_model)
        width = policy.get_output_embeddings().weight.shape[1]
        self.head = torch.nn.Linear(width, 1, dtype=policy.dtype, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> torch.Tensor:
        """The value before each response token is drawn, by one forward pass, as for logprobs.

        Args:
            prompts: r token sequences.
            responses: r token sequences, each the continuation of its prompt.

        Returns:
            (r, t) float32, t the longest response; padding is 0.
        """
        states, _ = states_before(self.backbone, prompts, responses)
        return as_rows(self.head(states)[:, 0].float(), responses)
