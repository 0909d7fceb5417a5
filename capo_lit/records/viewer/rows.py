"""What the page holds of recorded rollouts: a line of each for the list, and the whole of it for the detail."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capo_lit.core.steps import split_steps, token_steps
from capo_lit.records.inspect.record import WRONG_FROM, outcome_word

# Of each rollout as it is; the lists over tokens come rounded, for they are most of the page.
_FACTS = (
    "step", "rank", "group", "sample", "uid", "problem", "answer", "reference", "finish_reason", "policy_version",
    "outcome", "spans", "valid", "abstained", "agreement", "critiques", "outcome_critiques",
    "seconds",
)  # fmt: skip
_LISTS = (
    "prompt_ids", "response_ids", "pieces", "special", "engine_logprobs", "trainer_logprobs",
    "step_error", "step_of_token", "token_rewards", "advantages",
)  # fmt: skip
_DECIMALS = 4


def spread(groups: np.ndarray, limit: int) -> np.ndarray:
    """Which rows to keep of too many: whole groups, evenly spread, the first and the last among them.

    Args:
        groups: (rows,) the number of every row's group.
        limit: rows to keep at most, at least 1.

    Returns:
        Bool mask over the rows.
    """
    total = len(groups)
    if total <= limit:
        return np.ones(total, dtype=bool)
    numbers, group_of_row = np.unique(groups, return_inverse=True)
    wanted = max(1, len(numbers) * limit // total)
    kept = np.isin(group_of_row, np.linspace(0, len(numbers) - 1, wanted).round())
    kept[np.flatnonzero(kept)[limit:]] = False  # groups of unequal sizes
    return kept


def details(table: pa.Table) -> list[dict[str, Any]]:
    """The whole of every rollout, as the page's JSON holds it.

    Args:
        table: records, with all columns.

    Returns:
        One dict a row. `text` is there only where the tokens do not tell it; numbers that are not finite are None.
    """
    columns = {name: _finite(table[name]).to_pylist() for name in _FACTS}
    columns |= {name: _lists(table[name]) for name in _LISTS}
    rows = [dict[str, Any](zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row, text in zip(rows, table["text"].to_pylist(), strict=True):
        row["outcome"] = outcome_word(row["outcome"])
        unjudged = row["spans"] is None  # so older records have it; its steps are its paragraphs
        row["spans"] = split_steps(text) if unjudged else [(span["start"], span["end"]) for span in row["spans"]]
        if unjudged or row["step_of_token"] is None:
            row["step_of_token"] = token_steps(row["pieces"], row["spans"], row["special"])
        if "".join(row["pieces"]) != text:
            row["text"] = text
    return rows


def _finite(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.is_finite(column), column, None) if pa.types.is_floating(column.type) else column


def _lists(column: pa.ChunkedArray) -> list[list[Any] | None]:
    """A column of lists as Python lists; `to_pylist` takes ten times as long for numbers."""
    if column.num_chunks == 0:
        return []
    array = pa.concat_arrays(column.chunks)
    values, ends = array.values, array.offsets.to_pylist()
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False).astype(np.float64).round(_DECIMALS)
        flat = numbers.tolist() if np.isfinite(numbers).all() else [x if np.isfinite(x) else None for x in numbers]
    else:
        flat = values.to_pylist()
    valid = array.is_valid().to_pylist()
    return [flat[start:end] if here else None for here, start, end in zip(valid, ends, ends[1:], strict=False)]


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """What the list, its filters and its sort orders need of one rollout.

    Args:
        row: from `details`.

    Returns:
        outcome: right, wrong or unknown. steps: None without a verdict, that is if no judge was asked or every
        critique abstained. wrong: steps that the vote called so. disagreement: 1 - agreement, in [0, 0.5]. peak: the
        token advantage furthest from 0.
    """
    errors = row["step_error"] if row["valid"] else None
    advantages = [value for value in row["advantages"] or () if value is not None]
    return {
        "step": row["step"],
        "version": row["policy_version"],
        "sample": row["sample"],
        "outcome": row["outcome"],
        "steps": None if errors is None else len(errors),
        "wrong": sum(error >= WRONG_FROM for error in errors or ()),
        "disagreement": None if errors is None else round(1 - row["agreement"], _DECIMALS),
        "abstained": row["abstained"] or 0,
        "peak": max(advantages, key=abs, default=None),
        "tokens": len(row["response_ids"] or ()),
    }


class Index:
    """The list's columns, filled one rollout at a time; problems stand in it once.

    Attributes:
        columns: of `summary`, with the number of the run, the prompt and the group.
        prompts: uid and the beginning of the problem.
    """

    def __init__(self) -> None:
        self.columns: dict[str, list[Any]] = {}
        self.prompts: list[dict[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._groups: dict[tuple[Any, ...], int] = {}

    def add(self, run: int, row: dict[str, Any]) -> None:
        """One more rollout of a run."""
        prompt = self._number(row["uid"], row["problem"])
        group = (run, row["step"], row["rank"], row["group"])
        line = {"run": run, "prompt": prompt, "group": self._groups.setdefault(group, len(self._groups))}
        for name, value in (line | summary(row)).items():
            self.columns.setdefault(name, []).append(value)

    def _number(self, uid: str, problem: str) -> int:
        number = self._numbers.setdefault((uid, problem), len(self.prompts))
        if number == len(self.prompts):
            self.prompts.append({"uid": uid, "problem": " ".join(problem[:400].split())[:160]})
        return number


def in_chunks(rows: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Lists of `size` rows; the last one may be shorter."""
    chunk: list[Any] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
