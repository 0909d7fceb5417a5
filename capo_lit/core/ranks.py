"""What the trainer's processes tell each other beside gradients and metrics; one process alone talks to itself."""

from typing import TypeVar

import torch.distributed as dist

from capo_lit.core.errors import CapoError

T = TypeVar("T")


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Of this process; 0 where there is one alone."""
    return dist.get_rank() if _grouped() else 0


def from_first(value: T | None) -> T:
    """What the first process has; all of them call it at the same moment."""
    values = [value]
    if _grouped():
        dist.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]


def from_all(value: T) -> list[T]:
    """What every process has, in their order; all of them call it at the same moment."""
    values: list[T] = [value]
    if _grouped():
        values = [value] * dist.get_world_size()
        dist.all_gather_object(values, value)
    return values


def raise_together(error: CapoError | None) -> None:
    """Raise the first error that any process brings, on every one: none is left waiting for the others.

    Raises:
        CapoError: of the first process that has one.
    """
    for found in from_all(error):
        if found is not None:
            raise found
