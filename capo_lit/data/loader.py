"""A sized, shuffled, sharded loader whose position is saved with the checkpoint."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch

from capo_lit.core.errors import ConfigError
from capo_lit.core.seeding import derive_seed

Item = TypeVar("Item")
Batch = TypeVar("Batch")


class PromptLoader(Generic[Item, Batch]):
    """Yields one batch a step; a training loader shuffles, drops the last incomplete batch, and can be resumed.

    The order of epoch e is a function of (seed, e) alone. A loader that was given the state of another goes on with
    the item after the last one yielded. `batch_size` counts over all ranks: rank r takes every world_size-th item of
    each batch, so a step does not depend on the number of processes, and all ranks see equally many batches.

    It is no torch DataLoader: Lightning gives that another sampler and starts it anew on resume. It has a length,
    since Lightning reads an unsized loader one batch ahead and saves that position.

    Args:
        items: what is batched.
        keys: a stable name per item; a saved state fits only the same names in the same order.
        collate: makes a batch of its items and its step.
        batch_size: items per step over all ranks, >= 1.
        seed: of the shuffling; None keeps the order and the last smaller batch, and always starts at the front.
        rank: this process, in [0, world_size).
        world_size: number of processes.

    Raises:
        ConfigError: if the batch cannot be split evenly, or the items do not fill one batch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        keys: Sequence[str],
        collate: Callable[[Sequence[Item], int], Batch],
        batch_size: int,
        seed: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        _check(len(items), batch_size, seed is not None, world_size)
        self.items, self.collate, self.batch_size, self.seed = items, collate, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.position = 0, 0
        self._digest = hashlib.blake2b("\n".join(keys).encode(), digest_size=8).hexdigest()
        size = batch_size if seed is not None else max(batch_size, world_size)
        starts = list(range(0, len(items), size))
        last = len(items) - starts[-1]
        # An incomplete last batch is dropped in training. Elsewhere it joins the one before if it has less than one
        # item a rank, for no rank may go without a batch that the others have.
        if (seed is not None and last < size) or last < world_size:
            starts.pop()
        ends = [*starts[1:], starts[-1] + size if seed is not None else len(items)]
        self._bounds = list(zip(starts, ends, strict=True))

    def __len__(self) -> int:
        return len(self._bounds)

    def __iter__(self) -> Iterator[Batch]:
        if self.seed is None:
            self.position = 0
        elif self.position >= len(self):  # a sized loader is not exhausted: the next epoch begins here
            self.epoch, self.position = self.epoch + 1, 0
        order = self._order(self.epoch)
        while self.position < len(self):
            position = self.position
            self.position += 1  # before the yield: a checkpoint taken during this step must not repeat it
            yield self._batch(order, self.epoch, position)

    def peek(self) -> Batch:
        """The batch after the last one yielded, though it is of the next epoch; the position stays where it is."""
        epoch, position = self.epoch, self.position
        if position >= len(self):
            epoch, position = epoch + 1, 0
        return self._batch(self._order(epoch), epoch, position)

    def state_dict(self) -> dict[str, Any]:
        """Epoch and position, and what they are valid for."""
        return {"epoch": self.epoch, "position": self.position, "batch_size": self.batch_size, "items": self._digest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader stopped.

        Raises:
            ConfigError: if that loader had other items or another batch size.
        """
        mine = self.state_dict()
        for name, setting in (("batch_size", "the batch size"), ("items", "the data, template or prompt limit")):
            if state[name] != mine[name]:
                raise ConfigError(
                    f"a checkpoint whose loader had {name} {state[name]}",
                    f"{mine[name]}",
                    "PromptLoader",
                    f"{setting} back to what it was, or start without --ckpt_path",
                )
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def _batch(self, order: Sequence[int], epoch: int, position: int) -> Batch:
        start, end = self._bounds[position]
        picked = order[start:end][self.rank :: self.world_size]
        return self.collate([self.items[i] for i in picked], epoch * len(self) + position)

    def _order(self, epoch: int) -> list[int]:
        if self.seed is None:
            return list(range(len(self.items)))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", epoch))
        return [int(i) for i in torch.randperm(len(self.items), generator=generator)]


def _check(items: int, batch_size: int, training: bool, world_size: int) -> None:
    if batch_size < 1 or (training and batch_size % world_size):
        raise ConfigError(f"batch size {batch_size}", f"a positive multiple of {world_size} processes", "PromptLoader")
    least = batch_size if training else world_size
    if items < least:
        raise ConfigError(
            f"{items} items", f"at least {least}", "PromptLoader", "the batch size, or the source's limit"
        )
