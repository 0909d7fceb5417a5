"""How tokens are drawn: asked of an engine, and carried with the rollouts, since the trainer needs the temperature."""

from dataclasses import dataclass

from capo_lit.core.errors import check_settings


@dataclass
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 is greedy.
        top_p: nucleus mass in (0, 1]; 1 keeps every token.
        top_k: keep the k likeliest tokens; 0 keeps every token.
        max_tokens: longest response, tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        checks = (
            (self.temperature >= 0, f"temperature {self.temperature}", "a number >= 0", "temperature"),
            (0 < self.top_p <= 1, f"top_p {self.top_p}", "a number in (0, 1]", "top_p"),
            (self.top_k >= 0, f"top_k {self.top_k}", "an integer >= 0", "top_k"),
            (self.max_tokens >= 1, f"max_tokens {self.max_tokens}", "an integer >= 1", "max_tokens"),
        )
        check_settings(checks, "sampling")

    @property
    def truncates(self) -> bool:
        """Whether tokens are cut from the distribution, which biases importance ratios."""
        return self.top_p < 1 or self.top_k > 0
