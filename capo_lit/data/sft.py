"""Demonstrations for the cold start: prompts with the responses to imitate."""

from collections.abc import Sequence
from typing import Any

from capo_lit.core.errors import DataError
from capo_lit.data.module import RenderedData, positive, render_ids
from capo_lit.data.render import Renderer
from capo_lit.data.sources import Problem

Demonstration = tuple[tuple[int, ...], int]


class SFTBatch:
    """Ragged demonstrations of one step; a plain class for the same reason as StepBatch.

    Args:
        demonstrations: (token ids of prompt, response and end token; tokens of the prompt) per row.
        step: training step of the run, from 0.

    Attributes:
        ids: n rows of token ids.
        prompt_lengths: n lengths; the loss is over the tokens from there on.
        step: training step of the run.
    """

    def __init__(self, demonstrations: Sequence[Demonstration], step: int) -> None:
        self.ids = [ids for ids, _ in demonstrations]
        self.prompt_lengths = [length for _, length in demonstrations]
        self.step = step

    def __len__(self) -> int:
        return len(self.ids)


class SFTDataModule(RenderedData[Demonstration]):
    """Demonstrations for supervised training; validation is by sampling, on StepBatches of prompts.

    Args:
        max_tokens: longer demonstrations (prompt and response) are dropped, counted and named; none is cut.
    """

    def __init__(self, *args: Any, max_tokens: int = 2048, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limit = positive(max_tokens, "max_tokens")

    def render_train(self, problem: Problem, renderer: Renderer) -> tuple[Demonstration, int]:
        if not problem.reference:
            raise DataError(
                "no reference", "a response to imitate", f"problem '{problem.uid}'", "fields.reference of the source"
            )
        prompt = render_ids(problem, renderer)
        ids = prompt + renderer.response(problem.reference)
        return (ids, len(prompt)), len(ids)

    def collate_train(self, items: Sequence[Demonstration], step: int) -> SFTBatch:
        return SFTBatch(items, step)
