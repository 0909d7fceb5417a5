"""Demonstrations for the cold start: prompts with the responses to imitate."""

from collections.abc import Sequence

from capo_lit.core.errors import DataError
from capo_lit.data.module import CHAT, RenderedData, render_ids
from capo_lit.data.render import PromptTemplate, Renderer
from capo_lit.data.sources import Problem, PromptSource

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
        train: problems whose reference (fields.reference) is the response to imitate.
        val: problems with answers for validation; null for none.
        test: problems with answers for `capo test` and `capo predict`; null for none.
        tokenizer: the policy's, by local path or hub id.
        template: how a problem becomes a prompt; the same as in reinforcement learning.
        batch_size: demonstrations of one step over all processes.
        max_tokens: longer demonstrations (prompt and response) are dropped, counted and named; none is cut.
        seed: of the shuffling.
    """

    def __init__(
        self,
        train: PromptSource,
        tokenizer: str,
        val: PromptSource | None = None,
        test: PromptSource | None = None,
        template: PromptTemplate = CHAT,
        batch_size: int = 32,
        max_tokens: int = 2048,
        seed: int = 0,
    ) -> None:
        sources = {"train": train, "val": val, "test": test}
        super().__init__(sources, tokenizer, template, batch_size, max_tokens, seed)

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
