"""The fixed tensors on which the losses are compared: ragged, clipped on both sides, with groups that say nothing."""

from dataclasses import dataclass

import torch

from capo_lit.core.credit import advantages, token_rewards

NAN = float("nan")
ROWS, WIDTH, VOCAB, PER_GROUP, MAX_LENGTH = 12, 7, 11, 4, 9
LENGTHS = (5, 7, 7, 4, 2, 5, 6, 1, 6, 3, 6, 2)
OUTCOMES = (1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, NAN, 0.0)  # mixed, all right, one unknown
# lp - old, old - engine and ref - lp: the i-th token takes entry i of each cycle; their lengths share no factor.
RATIOS = (0.0, 0.1, -0.1, 0.3, -0.3, 1.7, -1.7, 4.0, -4.0)
ENGINE_GAPS = (0.0, 0.2, -0.2, 0.9, -0.9, 3.0, -3.0)
REFERENCE_GAPS = (0.0, 0.4, -0.4, 1.3, -1.3)


@dataclass(frozen=True, slots=True)
class Fixed:
    """Rows of one batch; n = 12, t = 7, v = 11.

    Attributes:
        logits: (n, t, v) float32.
        ids: (n, t) int64, the sampled tokens; outside the mask too.
        mask: (n, t) bool.
        old: (n, t) float32 logprobs before the update; engine and reference likewise.
        engine: see old.
        reference: see old.
        row_advantages: (n,) float32, of the estimator `sequence`.
        token_advantages: (n, t) float32, of the estimator `token_pooled` with every third token a wrong step's.
    """

    logits: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    old: torch.Tensor
    engine: torch.Tensor
    reference: torch.Tensor
    row_advantages: torch.Tensor
    token_advantages: torch.Tensor

    def logprobs(self, logits: torch.Tensor) -> torch.Tensor:
        """(n, t) logprobs of the ids, with gradient to the logits."""
        return logits.log_softmax(-1).gather(2, self.ids[..., None])[..., 0]


def cycle(values: tuple[float, ...]) -> torch.Tensor:
    """(n, t): the values over and over, row by row."""
    return torch.tensor([values[place % len(values)] for place in range(ROWS * WIDTH)]).view(ROWS, WIDTH)


def build() -> Fixed:
    """The tensors, the same at every call."""
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(ROWS, WIDTH, VOCAB, generator=generator)
    ids = torch.randint(VOCAB, (ROWS, WIDTH), generator=generator)
    mask = torch.arange(WIDTH) < torch.tensor(LENGTHS)[:, None]
    group = torch.arange(ROWS) // PER_GROUP
    error = (torch.arange(ROWS * WIDTH).view(ROWS, WIDTH) % 3 == 0).float()
    outcome = torch.tensor(OUTCOMES)
    whole = token_rewards(outcome, torch.zeros(ROWS, WIDTH), 2.0, 0.0)
    now = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
    old = now - cycle(RATIOS)
    return Fixed(
        logits,
        ids,
        mask,
        old,
        engine=old - cycle(ENGINE_GAPS),
        reference=now + cycle(REFERENCE_GAPS),
        row_advantages=advantages(whole, mask, group, "sequence")[:, 0],
        token_advantages=advantages(token_rewards(outcome, error, 2.0, 1.0), mask, group, "token_pooled"),
    )
