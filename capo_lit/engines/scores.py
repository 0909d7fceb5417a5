"""How probable a given continuation is after its context: what multiple choice tasks ask of an engine."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from capo_lit.batch.step import pad_rows
from capo_lit.core.errors import EngineError
from capo_lit.engines.local import LocalEngine
from capo_lit.engines.vllm_process import random_state_kept

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

Pair = tuple[Sequence[int], Sequence[int]]

# Tokens of one padded forward: the logits of every one of them exist at the same time.
_TOKENS_AT_ONCE = 2048
# vLLM keeps the scores of whole prompts until all requests of one call are done.
_PROMPTS_AT_ONCE = 256


class Score(NamedTuple):
    """What a model says of a continuation.

    Attributes:
        logprob: natural-log probability of all its tokens, at temperature 1.
        greedy: whether it is what greedy decoding would have written.
    """

    logprob: float
    greedy: bool


class ScoresPrompts(LocalEngine):
    """An engine in this process that scores given text as well as writing its own."""

    @property
    def context(self) -> int:
        """Longest prompt and response together, tokens; starts the engine."""
        with self._lock:
            self._start_once()
            return self._context()

    @property
    def longest_scored(self) -> int:
        """Longest context and continuation together that can be scored, tokens; starts the engine."""
        return self.context + 1

    @abstractmethod
    def _score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Scores of pairs that fit."""

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Score continuations with the weights of the moment.

        Args:
            pairs: token ids of a context and of its continuation, at least one each.

        Raises:
            EngineError: if requests are in flight, a pair does not fit, or the weights are a mixture of versions.
        """
        limit = self.longest_scored
        with self._lock:
            if self._fault is not None:
                raise self._fault
            if self._flights:
                raise EngineError(f"{len(self._flights)} requests in flight", "an idle engine", self._name)
            for context, continuation in pairs:
                if not (context and continuation and len(context) + len(continuation) <= limit):
                    got = f"a context of {len(context)} and a continuation of {len(continuation)} tokens"
                    raise EngineError(got, f"at least one each, and at most {limit} together", self._name)
            try:
                with random_state_kept():
                    return self._score(pairs)
            finally:
                self._idle()


def vllm_scores(llm: "LLM", pairs: Sequence[Pair], adapters: "LoRARequest | None") -> list[Score]:
    """Scores by vLLM's logprobs of prompts, which neither temperature nor truncation change."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
    scores = []
    for start in range(0, len(pairs), _PROMPTS_AT_ONCE):
        part = pairs[start : start + _PROMPTS_AT_ONCE]
        prompts = [TokensPrompt(prompt_token_ids=[*context, *continuation]) for context, continuation in part]
        outputs = llm.generate(prompts, params, use_tqdm=False, lora_request=adapters)
        for (context, _), output in zip(part, outputs, strict=True):
            # One logprob and rank for every token but the first, which follows nothing.
            scored: Any = output.prompt_logprobs
            first = len(context) - 1
            greedy = all(rank == 1 for rank in scored.ranks[first:])
            scores.append(Score(sum(scored.logprobs[first:]), greedy))
    return scores


@torch.no_grad()
def hf_scores(model: Any, pairs: Sequence[Pair]) -> list[Score]:
    """Scores by plain forwards of a transformers causal LM, longest pairs first."""
    scores: dict[int, Score] = {}
    waiting = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
    while waiting:
        longest = sum(map(len, pairs[waiting[0]]))
        rows = max(1, _TOKENS_AT_ONCE // longest)
        places, waiting = waiting[:rows], waiting[rows:]
        ids = pad_rows([[*pairs[place][0], *pairs[place][1][:-1]] for place in places], 0, torch.long)
        # Padded on the right and without a mask: causal attention does not look there.
        logits = model(input_ids=ids.to(model.device), use_cache=False).logits
        for place, row in zip(places, logits, strict=True):
            context, continuation = pairs[place]
            targets = torch.tensor(list(continuation), device=row.device)
            first = len(context) - 1
            logprobs = torch.log_softmax(row[first : first + len(continuation)].float(), dim=-1)
            greedy = bool((logprobs.argmax(-1) == targets).all())
            scores[place] = Score(float(logprobs.gather(1, targets[:, None]).sum()), greedy)
    return [scores[place] for place in range(len(pairs))]
