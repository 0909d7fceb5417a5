"""Micro-batches of a token budget: how rows are cut into them, and how much of them is padding."""

from collections.abc import Sequence


def plan_microbatches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut rows into micro-batches of at most `budget` padded tokens.

    Rows are taken in order of length, so that rows padded to one width have nearly that width.

    Args:
        lengths: tokens of each row, prompt and response together.
        budget: largest rows x width of a micro-batch; a row longer than the budget gets one of its own.

    Returns:
        Row indices of each micro-batch; every row stands in exactly one. The longest come first, so that memory that
        does not suffice fails at once.
    """
    plan: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        width = lengths[plan[-1][0]] if plan else 0
        if plan and (len(plan[-1]) + 1) * width <= budget:
            plan[-1].append(row)
        else:
            plan.append([row])
    return plan


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


def padded_tokens(lengths: Sequence[int], plan: Sequence[Sequence[int]]) -> int:
    """Tokens of the micro-batches, padding included."""
    return sum(len(rows) * max(lengths[row] for row in rows) for rows in plan)
