"""The DataModules' common part, and PromptDataModule for reinforcement learning."""

import hashlib
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningDataModule

from capo_lit.batch.facts import Prompt
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.loader import PromptLoader
from capo_lit.data.render import PromptTemplate, Renderer
from capo_lit.data.sources import Problem, PromptSource
from capo_lit.verifier.pool import Verifier

log = logging.getLogger(__name__)
Item = TypeVar("Item")
CHAT = PromptTemplate()
VAL_BATCH = 128  # prompts of one validation batch over all processes: enough to keep any engine busy
SPLITS = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("test",)}


class RenderedData(LightningDataModule, Generic[Item]):
    """Loads sources, renders them once, drops what is too long, and makes the loaders.

    Args:
        train: where the training problems come from; for supervised training their reference (fields.reference) is
            the response to imitate.
        val: problems with answers for validation; null for none.
        test: problems with answers for `capo test` and `capo predict`; null for none.
        tokenizer: the policy's, by local path or hub id.
        template: how a problem becomes a prompt; the same in supervised training and in reinforcement learning.
        prompts_per_step: b, prompts (with their demonstrations) of one step over all processes.
        seed: of the shuffling.

    Attributes:
        dropped: uids of the problems that were too long, by split.
        limit: longest row, tokens.
    """

    limit: int

    def __init__(
        self,
        train: PromptSource,
        tokenizer: str,
        val: PromptSource | None = None,
        test: PromptSource | None = None,
        template: PromptTemplate = CHAT,
        prompts_per_step: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._sources = {"train": train, "val": val, "test": test}
        self._tokenizer, self.template, self._batch_size, self._seed = tokenizer, template, prompts_per_step, seed
        self._renderer: Renderer | None = None
        self._train: list[tuple[str, Item]] = []
        self._prompts: dict[str, list[tuple[str, Prompt]]] = {}
        self.dropped: dict[str, list[str]] = {}

    @abstractmethod
    def render_train(self, problem: Problem, renderer: Renderer) -> tuple[Item, int]:
        """The training item of a problem and its length, tokens."""

    @abstractmethod
    def collate_train(self, items: Sequence[Item], step: int) -> Any:
        """The training batch of a step."""

    def setup(self, stage: str) -> None:
        """Load and render the sources that a stage needs; what is there already is kept.

        Raises:
            ConfigError: if the stage only evaluates, and there is no such source.
        """
        for split in SPLITS[stage]:
            source = self._sources.get(split)
            if source is None and stage != "fit":
                instead = ", or --validate_first false" if split == "val" else ""
                raise ConfigError(
                    f"data.{split} null, and so no problems", "a source of problems", change=f"--data.{split}{instead}"
                )
            if source is None or split in self.dropped:
                continue
            if split == "train":
                self._train = self._rendered(split, source, self.render_train)
                items = self._train
            else:
                items = self._prompts[split] = self._rendered(split, source, render_prompt)
            _name_text_golds(split, [item for _, item in items if isinstance(item, Prompt)])

    def train_dataloader(self) -> PromptLoader[Item, Any]:
        """Shuffled, resumable; drops the last incomplete batch."""
        return self._loader(self._train, self.collate_train, self._batch_size, self._seed)

    def val_dataloader(self) -> Any:
        """In order, every prompt once; an empty list if there is no such source."""
        return self._prompt_loader("val")

    def test_dataloader(self) -> Any:
        """As val_dataloader."""
        return self._prompt_loader("test")

    def predict_dataloader(self) -> Any:
        """The test split."""
        return self._prompt_loader("test")

    def fingerprint(self, split: str) -> dict[str, str | int]:
        """Number of prompts of val or test, and the SHA-256 of their names, problems and gold answers, in order."""
        prompts = [prompt for _, prompt in self._prompts[split]]
        rows = [[prompt.uid, prompt.problem, prompt.answer] for prompt in prompts]
        return {"problems": len(rows), "sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest()}

    def _prompt_loader(self, split: str) -> Any:
        prompts = self._prompts.get(split)
        return self._loader(prompts, StepBatch, VAL_BATCH, None) if prompts else []

    def _loader(
        self, named: list[tuple[str, Any]], collate: Callable[[Sequence[Any], int], Any], size: int, seed: int | None
    ) -> PromptLoader[Any, Any]:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        items, keys = [item for _, item in named], [uid for uid, _ in named]
        return PromptLoader(items, keys, collate, size, seed, rank, world)

    def _rendered(
        self, split: str, source: PromptSource, render: Callable[[Problem, Renderer], tuple[Any, int]]
    ) -> list[tuple[str, Any]]:
        renderer = self._get_renderer()
        kept: list[tuple[str, Any]] = []
        dropped: list[str] = []
        for problem in source.load():
            item, tokens = render(problem, renderer)
            if tokens > self.limit:
                dropped.append(problem.uid)
            else:
                kept.append((problem.uid, item))
        self.dropped[split] = dropped
        if dropped:
            more = ", ..." if len(dropped) > 10 else ""
            log.warning(
                "%s: dropped %d of %d rows longer than %d tokens: %s%s",
                split, len(dropped), len(dropped) + len(kept), self.limit, ", ".join(dropped[:10]), more,
            )  # fmt: skip
        if not kept:
            raise DataError(
                f"{len(dropped)} rows, all longer than {self.limit} tokens", "some that fit", split, "the limit"
            )
        return kept

    def _get_renderer(self) -> Renderer:
        if self._renderer is None:
            from transformers import AutoTokenizer

            try:
                tokenizer = AutoTokenizer.from_pretrained(self._tokenizer, trust_remote_code=False)
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise ConfigError(
                    f"no tokenizer at '{self._tokenizer}' ({reason})", "a local path or hub id", change="tokenizer"
                ) from error
            self._renderer = Renderer(tokenizer, self.template)
        return self._renderer


def _name_text_golds(split: str, prompts: Sequence[Prompt]) -> None:
    """Warn of golds that the rule verifier can compare as texts only: a right answer spelled otherwise is wrong."""
    golds = {gold: prompt.uid for prompt in reversed(prompts) for gold in prompt.answers or (prompt.answer,)}
    with Verifier() as verifier:
        found = verifier.text_only(golds)
    if found:
        shown = "; ".join(f"{golds[gold]}: {gold[:60]!r}" for gold in found[:5]) + ("; ..." if len(found) > 5 else "")
        log.warning(
            "%s: %d gold answers can be compared as text only, since math-verify cannot compare them: %s",
            split, len(found), shown,
        )  # fmt: skip


def positive(tokens: int, name: str) -> int:
    """A limit of tokens, checked."""
    if tokens < 1:
        raise ConfigError(f"{name} {tokens}", "an integer >= 1", change=f"--data.{name}")
    return tokens


def render_prompt(problem: Problem, renderer: Renderer) -> tuple[Prompt, int]:
    """The Prompt of a problem and its length, tokens.

    Raises:
        DataError: if the problem has no answer.
    """
    if not problem.answer.strip():
        raise DataError("no answer", "a gold answer for every problem", f"problem '{problem.uid}'", "fields.answer")
    ids = render_ids(problem, renderer)
    return Prompt(problem.uid, problem.problem, ids, problem.answer, problem.reference, problem.answers), len(ids)


def render_ids(problem: Problem, renderer: Renderer) -> tuple[int, ...]:
    """Token ids of a problem's prompt.

    Raises:
        DataError: naming the problem, if it cannot be rendered.
    """
    try:
        return renderer.chat(problem.chat) if problem.chat else renderer.prompt(problem.problem)
    except DataError as error:
        raise DataError(error.got, error.expected, f"problem '{problem.uid}'", error.change) from error


class PromptDataModule(RenderedData[Prompt]):
    """Prompts for reinforcement learning: each step one StepBatch.

    Args:
        max_prompt_tokens: longer prompts are dropped, counted and named in a warning; none is cut.
    """

    def __init__(self, *args: Any, max_prompt_tokens: int = 1024, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.limit = positive(max_prompt_tokens, "max_prompt_tokens")

    def render_train(self, problem: Problem, renderer: Renderer) -> tuple[Prompt, int]:
        return render_prompt(problem, renderer)

    def collate_train(self, items: Sequence[Prompt], step: int) -> StepBatch:
        return StepBatch(items, step)
