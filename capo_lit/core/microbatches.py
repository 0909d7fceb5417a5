"""Micro-batches of a token budget: how rows are cut into them, and how many tokens each of them computes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Ids = Sequence[int]
# Packed attention copies queries, keys and values into rows of one width. Of the memory that a token takes for the
# backward pass, this many places of such rows take as much (twenty where keys are shared by heads, ten where not).
_PLACES_PER_TOKEN = 16


@dataclass
class Tally:
    """Tokens of rows that are computed together, in the cheaper of two layouts.

    Padded: all rows have the width of the longest. Packed: every prompt that differs stands there once, then all
    responses, without padding; only attention has rows again, of the longest prompt and the longest response.

    Args:
        packable: the model can compute the packed layout.

    Attributes:
        rows: how many.
        width: tokens of the longest row, prompt and response together.
        response: tokens of the longest response.
        tokens: of all rows.
        packed: tokens of the packed layout.
    """

    packable: bool
    rows: int = 0
    width: int = 0
    response: int = 0
    tokens: int = 0
    packed: int = 0
    _prompts: set[tuple[int, ...]] = field(default_factory=set)

    def add(self, length: int, prompt: Ids) -> None:
        """Count one more row of `length` tokens, which begin with `prompt`."""
        self.packed += self._own(length, prompt)
        self.rows, self.width, self.tokens = self.rows + 1, max(self.width, length), self.tokens + length
        self.response = max(self.response, length - len(prompt))
        self._prompts.add(tuple(prompt))

    def cost_with(self, length: int, prompt: Ids) -> int:
        """Tokens' worth of memory of the cheaper layout, had it one more row."""
        packed, response = self.packed + self._own(length, prompt), max(self.response, length - len(prompt))
        padded, laid = _costs(self.rows + 1, max(self.width, length), response, packed)
        return min(padded, laid) if self.packable else padded

    @property
    def packs(self) -> bool:
        """Whether the packed layout is the cheaper one."""
        padded, laid = _costs(self.rows, self.width, self.response, self.packed)
        return self.packable and laid < padded

    @property
    def computed(self) -> int:
        """Tokens of the cheaper layout, padding included."""
        return self.packed if self.packs else self.rows * self.width

    @property
    def padding(self) -> int:
        """Tokens of the cheaper layout that belong to no row."""
        return 0 if self.packs else self.rows * self.width - self.tokens

    def _own(self, length: int, prompt: Ids) -> int:
        return length - (len(prompt) if tuple(prompt) in self._prompts else 0)


def _costs(rows: int, width: int, response: int, packed: int) -> tuple[int, int]:
    return rows * width, packed + rows * (width + response) // _PLACES_PER_TOKEN


def tally(prompts: Sequence[Ids], responses: Sequence[Ids], packable: bool) -> Tally:
    """Tokens of some rows that are computed together.

    Args:
        prompts: token ids of each row's prompt.
        responses: token ids of each row's response.
        packable: the model can compute the packed layout.
    """
    counted = Tally(packable)
    for prompt, response in zip(prompts, responses, strict=True):
        counted.add(len(prompt) + len(response), prompt)
    return counted


def plan_microbatches(lengths: Sequence[int], budget: int, prompts: Sequence[Ids] | None = None) -> list[list[int]]:
    """Cut rows into micro-batches that cost at most `budget` tokens, padding included.

    Rows are taken in order of length, so that rows padded to one width have nearly that width. With `prompts`, those of
    one prompt are taken together, by the longest among them, and a prompt that is computed once counts once (and the
    copies that packing makes of it, a sixteenth each).

    Args:
        lengths: tokens of each row, prompt and response together.
        budget: largest number of tokens of a micro-batch; a row longer than the budget gets one of its own.
        prompts: token ids of each row's prompt, where the model can compute packed rows; None pads.

    Returns:
        Row indices of each micro-batch; every row stands in exactly one. The longest come first, so that memory that
        does not suffice fails at once.
    """
    packable = prompts is not None
    own: Sequence[Ids] = prompts if prompts is not None else [()] * len(lengths)
    plan: list[list[int]] = []
    counted = Tally(packable)
    for row in _order(lengths, own if packable else [(row,) for row in range(len(lengths))]):
        if not plan or counted.cost_with(lengths[row], own[row]) > budget:
            plan.append([])
            counted = Tally(packable)
        plan[-1].append(row)
        counted.add(lengths[row], own[row])
    return plan


def _order(lengths: Sequence[int], prompts: Sequence[Ids]) -> list[int]:
    """Rows from long to short; rows of one prompt stand together, where the longest of them belongs."""
    keys = [tuple(prompt) for prompt in prompts]
    places: dict[tuple[int, ...], tuple[int, int]] = {}
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        places.setdefault(keys[row], (-lengths[row], row))
    return sorted(range(len(lengths)), key=lambda row: (*places[keys[row]], -lengths[row], row))


def cut_microbatches(plan: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Cut micro-batches in two, those of most rows first, until there are `count`.

    Args:
        plan: as `plan_microbatches` gives it.
        count: how many; at most as many as there are rows.

    Returns:
        The same rows in the same order; `plan` itself if it has that many already.

    Raises:
        ValueError: if there are fewer rows.
    """
    rows = sum(map(len, plan))
    if count > rows:
        raise ValueError(f"got {rows} rows; expected at least the {count} micro-batches that they are cut into")
    parts = [list(part) for part in plan]
    while len(parts) < count:
        index = max(range(len(parts)), key=lambda place: len(parts[place]))
        part = parts[index]
        parts[index : index + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts
