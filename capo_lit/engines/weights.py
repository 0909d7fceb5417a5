"""Whether a push of weights brought every parameter: an engine must not keep an old one unnoticed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from capo_lit.core.errors import EngineError


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """The names a push of weights must bring, and those it may bring besides (tied weights, buffers)."""

    required: frozenset[str]
    optional: frozenset[str]

    @classmethod
    def of(cls, model: torch.nn.Module) -> "ParameterNames":
        """The names of a Hugging Face model."""
        required = frozenset(name for name, _ in model.named_parameters())
        return cls(required, frozenset(model.state_dict()) - required)


class Census:
    """Counts what a push brings.

    Args:
        names: what it should bring.
    """

    def __init__(self, names: ParameterNames) -> None:
        self._names = names
        self._seen: set[str] = set()
        self._strange: list[str] = []

    def known(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass on the tensors that the model has, detached."""
        for name, tensor in named_tensors:
            if name in self._names.required:
                self._seen.add(name)
                yield name, tensor.detach()
            elif name not in self._names.optional:
                self._strange.append(name)

    def check(self, where: str) -> None:
        """Raise EngineError if a parameter did not come, or one came that the model does not have."""
        missing = sorted(self._names.required - self._seen)
        if missing or self._strange:
            raise EngineError(
                f"{len(missing)} parameters missing {missing[:3]} and {len(self._strange)} unknown {self._strange[:3]}",
                "the names of the Hugging Face model's named_parameters()",
                where,
            )
