"""A discriminative PRM: a token classifier that says of every step at once how likely it is wrong."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout
from capo_lit.batch.step import pad_rows
from capo_lit.core.errors import JudgeError, check_settings
from capo_lit.core.microbatches import plan_microbatches
from capo_lit.genprm.base import StepJudge, critiqued, step_texts
from capo_lit.genprm.neutral import neutralise

_PROBLEM = "{problem}"


@dataclass(frozen=True, slots=True)
class _Input:
    """A solution as the model reads it: ids, and the position of every step's separator in them."""

    rollout: Rollout
    ids: list[int]
    ends: list[int]


class DiscriminativePRM(StepJudge):
    """Reads P(wrong) of every step from a Hugging Face token classifier, in one forward pass per batch of solutions.

    e = [P(wrong) >= threshold], or P(wrong) itself if soft. The input is the problem, then every step with the
    separator after it, each tokenized by itself; a step's class is read at its separator's last token, which is also
    how TRL's PRM trainer labels steps. There is nothing to vote on: such a model says the same every time.

    Args:
        model: directory or hub id of a model for token classification; code from its repository is never run.
        separator: text that ends every step; it is taken out of problem and steps.
        template: text before the first step, with {problem} in it.
        wrong_label: index of the class "wrong".
        threshold: probability from which on a step counts as wrong.
        soft: the step error is the probability; the threshold then only says which steps the critique names.
        tokens_per_batch: padded tokens of one forward pass.
        max_model_len: longest input, tokens; a longer one abstains. The model's own limit by default.
        dtype: "auto" takes the checkpoint's.

    Raises:
        ConfigError: if a setting is out of range.
    """

    def __init__(  # noqa: PLR0913  (every one is a setting of its own in a config)
        self,
        model: str,
        separator: str = "\n",
        template: str = _PROBLEM,
        wrong_label: int = 0,
        threshold: float = 0.5,
        soft: bool = False,
        tokens_per_batch: int = 16384,
        max_model_len: int | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        limit = max_model_len
        checks = (
            (separator not in ("", " "), f"separator {separator!r}", "a text, and not a space", "separator"),
            (template.count(_PROBLEM) == 1, f"template {template!r}", f"{_PROBLEM} once", "template"),
            (wrong_label >= 0, f"wrong_label {wrong_label}", "an index >= 0", "wrong_label"),
            (0 < threshold <= 1, f"threshold {threshold}", "a probability > 0", "threshold"),
            (tokens_per_batch >= 1, f"tokens_per_batch {tokens_per_batch}", "an integer >= 1", "tokens_per_batch"),
            (limit is None or limit >= 1, f"max_model_len {limit}", "an integer >= 1, or null", "max_model_len"),
        )
        check_settings(checks, "DiscriminativePRM")
        self.model, self.separator, self.template, self.wrong_label = model, separator, template, wrong_label
        self.threshold, self.soft = threshold, soft
        self.tokens_per_batch, self.max_model_len, self.dtype = tokens_per_batch, max_model_len, dtype
        self._module: Any = None
        self._tokenizer: Any = None

    def judge(self, rollouts: Iterable[Rollout], seed: int) -> Iterator[CritiquedRollout]:
        """Classify the steps of all rollouts, when the last one has come; see `StepJudge.judge`.

        Which solutions share a batch does not depend on the order in which they came.

        Args:
            rollouts: the rollouts of one step, in any order.
            seed: of this step; nothing here is random.

        Yields:
            One CritiquedRollout per rollout; a solution that is too long, or whose classes are no numbers, abstains.

        Raises:
            JudgeError: if the model cannot be used.
        """
        self._load()
        inputs = sorted((self._read(rollout) for rollout in rollouts), key=lambda item: item.rollout.row)
        limit, todo = self._limit(), list[_Input]()
        for item in inputs:
            if not item.rollout.spans:
                yield critiqued(item.rollout, (), "greedy")
            elif len(item.ids) > limit:
                cause = f"error: an input of {len(item.ids)} tokens, the model takes {limit}"
                yield critiqued(item.rollout, [Critique("", None, cause)], "greedy")
            else:
                todo.append(item)
        for rows in plan_microbatches([len(item.ids) for item in todo], self.tokens_per_batch):
            batch = [todo[row] for row in rows]
            started = time.perf_counter()
            probabilities = self._classify(batch)
            seconds = time.perf_counter() - started
            for item, wrong in zip(batch, probabilities, strict=True):
                yield self._verdict(item, wrong, seconds)

    def _load(self) -> None:
        if self._module is not None:
            return
        from transformers import AutoModelForTokenClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model)
            module, info = AutoModelForTokenClassification.from_pretrained(
                self.model, dtype=self.dtype, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise self._error(f"a model that does not load: {error}", "a model for token classification") from error
        if info["missing_keys"]:
            # transformers fills them with random numbers: such a judge would guess.
            missing = ", ".join(sorted(info["missing_keys"])[:3])
            raise self._error(f"a checkpoint without {missing}", "one that was trained for token classification")
        classes = module.config.num_labels
        if not self.wrong_label < classes or classes < 2:
            raise self._error(f"{classes} classes", f"at least 2, of which wrong_label {self.wrong_label} is one")
        if not tokenizer.encode(self.separator, add_special_tokens=False):
            raise self._error(f"separator {self.separator!r}, which its tokenizer drops", "a separator that it keeps")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer, self._module = tokenizer, module.to(device).eval()

    def _error(self, got: str, expected: str) -> JudgeError:
        return JudgeError(got, expected, f"DiscriminativePRM {self.model}", "--critique.judge (its model or separator)")

    def _limit(self) -> int:
        limits = (
            self.max_model_len,
            getattr(self._module.config.get_text_config(), "max_position_embeddings", None),
            self._tokenizer.model_max_length,
        )
        return min(int(limit) for limit in limits if limit)

    def _read(self, rollout: Rollout) -> _Input:
        """Lay out a solution; positions are known because every part is tokenized by itself, and never searched for."""
        tokenizer, separator = self._tokenizer, self._encode(self.separator)
        start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
        before, after = (self._encode(part) for part in self.template.split(_PROBLEM))
        ids = [*([] if start is None else [start]), *before, *self._harmless(rollout.prompt.problem), *after]
        ends = []
        for step in step_texts(rollout.completion.text, rollout.spans):
            ids += [*self._harmless(step), *separator]
            ends.append(len(ids) - 1)
        return _Input(rollout, ids, ends)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def _harmless(self, text: str) -> list[int]:
        """Ids of a text of unknown origin, without separators and control tokens.

        Twice, as text and as ids: a tokenizer may make them of other characters.
        """
        text = neutralise(text)
        while self.separator in text:
            text = text.replace(self.separator, " ")
        tokenizer = self._tokenizer
        control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        return _without(
            [index for index in self._encode(text.strip()) if index not in control], self._encode(self.separator)
        )

    @torch.no_grad()
    def _classify(self, batch: Sequence[_Input]) -> list[list[float]]:
        """P(wrong) of every step of every solution."""
        device = self._module.device
        ids = pad_rows([item.ids for item in batch], 0, torch.long).to(device)
        mask = pad_rows([[1] * len(item.ids) for item in batch], 0, torch.long).to(device)
        logits = self._module(input_ids=ids, attention_mask=mask).logits
        wrong = logits.float().softmax(-1)[..., self.wrong_label]
        return [wrong[row, item.ends].tolist() for row, item in enumerate(batch)]

    def _verdict(self, item: _Input, wrong: list[float], seconds: float) -> CritiquedRollout:
        reply = " ".join(f"{probability:.4f}" for probability in wrong)
        named = frozenset(step for step, probability in enumerate(wrong) if probability >= self.threshold)
        valid = all(0 <= probability <= 1 for probability in wrong)
        critique = Critique(
            reply,
            named if valid else None,
            "" if valid else "error: a class that is not a number",
            prompt_tokens=len(item.ids),
            seconds=seconds,
        )
        result = critiqued(item.rollout, [critique], "greedy")
        if not self.soft or not valid:
            return result
        return replace(result, verdict=replace(result.verdict, step_error=tuple(wrong)))


def _without(ids: list[int], part: list[int]) -> list[int]:
    """The ids without any occurrence of `part`, those that a removal brings together included."""
    kept: list[int] = []
    for index in ids:
        kept.append(index)
        if kept[-len(part) :] == part:
            del kept[-len(part) :]
    return kept
