"""The statistics of a policy loss, as sums that add up over micro-batches."""

from dataclasses import dataclass, fields

from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LossStats:
    """Sums over the tokens of one or several micro-batches; adding two gives the statistics of both together.

    The sums stay on the device, so that computing and adding them never waits for it; a property does, when it is
    read. Every property is a mean over `tokens`, 0.0 if there are none.

    Attributes:
        tokens: () float64, tokens in the mask; so is every other.
        clip_low: tokens with A < 0 and rho < 1 - clip_low, whose gradient the clip removed.
        clip_high: tokens with A > 0 and rho > 1 + clip_high, likewise.
        dual_clip: tokens with A < 0 and rho > dual_clip, likewise.
        ratio: sum of rho.
        old_kl: sum of the k3 estimate of KL(old || now), rho - log(rho) - 1.
        ref_kl: sum of the k3 estimate of KL(now || reference); 0 without a reference.
        importance: sum of the importance weights; 1 each without engine logprobs.
        importance_capped: tokens whose importance weight was cut to the cap.
    """

    tokens: Float64[Tensor, ""]
    clip_low: Float64[Tensor, ""]
    clip_high: Float64[Tensor, ""]
    dual_clip: Float64[Tensor, ""]
    ratio: Float64[Tensor, ""]
    old_kl: Float64[Tensor, ""]
    ref_kl: Float64[Tensor, ""]
    importance: Float64[Tensor, ""]
    importance_capped: Float64[Tensor, ""]

    def __add__(self, other: "LossStats") -> "LossStats":
        """The statistics of both token sets together."""
        return LossStats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def _mean(self, total: Tensor) -> float:
        return float(total / self.tokens.clamp(min=1))

    @property
    def clip_low_frac(self) -> float:
        """Share of tokens clipped from below."""
        return self._mean(self.clip_low)

    @property
    def clip_high_frac(self) -> float:
        """Share of tokens clipped from above."""
        return self._mean(self.clip_high)

    @property
    def dual_clip_frac(self) -> float:
        """Share of tokens under the dual clip."""
        return self._mean(self.dual_clip)

    @property
    def ratio_mean(self) -> float:
        """Mean of rho, 1 on policy."""
        return self._mean(self.ratio)

    @property
    def approx_kl(self) -> float:
        """Mean k3 estimate of KL(old || now), nats per token."""
        return self._mean(self.old_kl)

    @property
    def kl_ref(self) -> float:
        """Mean k3 estimate of KL(now || reference), nats per token."""
        return self._mean(self.ref_kl)

    @property
    def importance_mean(self) -> float:
        """Mean importance weight after the cap."""
        return self._mean(self.importance)

    @property
    def importance_capped_frac(self) -> float:
        """Share of tokens whose importance weight was capped."""
        return self._mean(self.importance_capped)
