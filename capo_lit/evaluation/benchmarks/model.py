"""lm-eval's model interface over an engine of this project: the live policy is evaluated, no second model is loaded.

Everything that decides a score follows lm-eval's own transformers backend (HFLM): beginning-of-sequence tokens, the
cut between context and continuation, truncation on the left, stop strings. Tests compare the two.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from capo_lit.batch.facts import Completion
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.core.ranks import from_all
from capo_lit.core.seeding import derive_seed
from capo_lit.engines.base import Engine, Request, as_completed
from capo_lit.engines.scores import Score, ScoresPrompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_Item = TypeVar("_Item")
# A scoring request as lm-eval hands it on: what it is cached under, context ids, continuation ids.
_Scoring = tuple[tuple[str, str] | None, list[int], list[int]]
_MAX_GEN_TOKS = 256  # lm-eval's default, for tasks that say nothing
_DRAWN_BY = {"temperature", "top_p", "top_k"}


class EngineLM(TemplateLM):  # type: ignore[misc]
    """An engine as lm-eval sees a model.

    With several processes each generates a part of the requests, and all of them learn all answers: to lm-eval, every
    one of them is alone. Stop strings of the engine itself end answers too.

    Args:
        engine: VLLMEngine or HFEngine.
        seed: of the run; every sampled answer has a seed of its own from it, the task, the document and the repeat.
        max_length: longest context and continuation together, tokens; the engine's by default. Scores under vLLM
            have 2 tokens less, since vLLM needs room for a response.
        part: rank and number of the processes that share the work.

    Raises:
        ConfigError: if the engine cannot score prompts.
    """

    def __init__(
        self, engine: Engine, seed: int = 0, max_length: int | None = None, part: tuple[int, int] = (0, 1)
    ) -> None:
        super().__init__()
        if not isinstance(engine, ScoresPrompts):
            got = f"engine {type(engine).__name__}"
            raise ConfigError(got, "an engine in this process (VLLMEngine, HFEngine)", "lm-eval", "--rollout.engine")
        self.engine, self.seed, self._max_length = engine, seed, max_length
        self._part, self._parts = part
        self.tokenizer: PreTrainedTokenizerBase = engine.tokenizer
        self.generated_tokens = 0
        """Tokens that this process has generated so far, end tokens included."""

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def max_length(self) -> int:
        """Longest context and continuation together, tokens."""
        return self._max_length or self.engine.context

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer came from; part of the key of lm-eval's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; a second beginning-of-sequence token is never put before one that the text spells."""
        begin = self.tokenizer.decode(self.prefix_token_id)
        if add_special_tokens is None and has_bos_prefix(string, begin):
            add_special_tokens = False
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **special))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Chat messages as one text; without their system message where the template refuses it."""
        try:
            return self._render(chat_history, add_generation_prompt)
        except TemplateError:
            return self._render([m for m in chat_history if m["role"] != "system"], add_generation_prompt)

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The responses to `requests`, without the stop string that ended each.

        Raises:
            ConfigError: for a way of drawing that engines do not know, or more new tokens than fit.
            EngineError: if a request cannot be generated.
        """
        repeats: Counter[tuple[Any, ...]] = Counter()
        asked, untils = [], []
        for place, instance in enumerate(requests):
            context, arguments = instance.args
            key = (str(instance.task_name), str(instance.doc_id), instance.idx, context)
            seed = derive_seed(self.seed, "lm_eval", *key, repeats[key])
            repeats[key] += 1
            request, until = self._request(f"lm_eval-{place}", context, arguments, seed)
            asked.append(request)
            untils.append(until)
        texts = self._everywhere(self._complete(self._mine(asked)))
        answers = [postprocess_generated_text(text, until, None) for text, until in zip(texts, untils, strict=True)]
        for instance, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("generate_until", instance.args, answer)
        return answers

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[Score]:
        """Score of each continuation after its context."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """Logprob of each whole text, in windows of the greatest length, every token predicted once."""
        windows: list[_Scoring] = []
        counts = []
        for instance in requests:
            found = get_rolling_token_windows(
                token_list=self.tok_encode(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._scored - 1,
                context_len=1,
            )
            before = len(windows)
            windows += [(None, *make_disjoint_window(window)) for window in found]
            counts.append(len(windows) - before)
        scores = iter(self._loglikelihood_tokens(windows))
        totals = [sum(next(scores).logprob for _ in range(count)) for count in counts]
        for instance, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", instance.args, total)
        return totals

    def _loglikelihood_tokens(self, requests: Sequence[_Scoring], **kwargs: Any) -> list[Score]:
        pairs = []
        for _, context, continuation in requests:
            if not 0 < len(continuation) < self._scored:
                got = f"a continuation of {len(continuation)} tokens"
                raise EngineError(got, f"1 to {self._scored - 1}", "lm-eval", "the engine's max_model_len")
            pairs.append((context[-(self._scored - len(continuation)) :], continuation))
        scores = self._everywhere(self.engine.score(self._mine(pairs)))
        for (key, _, _), score in zip(requests, scores, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, score)
        return scores

    @property
    def _scored(self) -> int:
        """Longest context and continuation together in one score: the last token is predicted, and never read."""
        return min(self.max_length + 1, self.engine.longest_scored)

    def _request(
        self, request_id: str, context: str, arguments: dict[str, Any], seed: int
    ) -> tuple[Request, list[str]]:
        """What the engine is asked, and the strings at which the text is cut afterwards."""
        known: dict[str, Any] = dict(normalize_gen_kwargs(arguments, _MAX_GEN_TOKS))
        end = str(self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False))
        until = handle_stop_sequences(known.pop("until"), eos=end)
        new, drawn = known.pop("max_gen_toks"), known.pop("do_sample")
        if strange := known.keys() - _DRAWN_BY:
            got = f"generation_kwargs {sorted(strange)}"
            raise ConfigError(got, f"none beside {sorted(_DRAWN_BY)}, do_sample, until, max_gen_toks", "lm-eval")
        if new >= self.max_length:
            got = f"max_gen_toks {new}"
            raise ConfigError(got, f"less than the {self.max_length} tokens that fit", "lm-eval", "gen_kwargs")
        sampling = Sampling(**known, max_tokens=new) if drawn else Sampling(temperature=0.0, max_tokens=new)
        # As in lm-eval's backend, a text that begins with the token gets no second one.
        special = {"add_special_tokens": False} if has_bos_prefix(context, self.tokenizer.bos_token) else {}
        ids = self.tokenizer.encode(context, **special)[-(self.max_length - new) :]
        stop = tuple(term for term in until if term and term != end)
        return Request(request_id, tuple(ids), sampling, seed, stop=stop), until

    def _complete(self, asked: Sequence[Request]) -> list[str]:
        done: dict[str, Completion] = {item.request_id: item for item in as_completed(self.engine, asked)}
        self.generated_tokens += sum(len(item.ids) for item in done.values())
        return [str(self.tokenizer.decode(list(done[item.request_id].ids), skip_special_tokens=True)) for item in asked]

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _mine(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This process's part; neighbours stay together, for they share prompts."""
        ends = [place * len(items) // self._parts for place in (self._part, self._part + 1)]
        return items[ends[0] : ends[1]]

    def _everywhere(self, mine: list[_Item]) -> list[_Item]:
        """All processes' parts, in order."""
        if self._parts == 1:
            return mine
        return [item for part in from_all(mine) for item in part]
