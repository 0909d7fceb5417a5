"""transformers in this process: the engine for machines without vLLM."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch

from capo_lit.batch.facts import FinishReason
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import pad_rows
from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Request
from capo_lit.engines.local import Generated, ParameterNames
from capo_lit.engines.scores import Pair, Score, ScoresPrompts, hf_scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class _Row:
    request_id: str
    prompt: tuple[int, ...]
    sampling: Sampling
    generator: torch.Generator
    budget: int
    stop: tuple[str, ...]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Wave:
    """Requests that were admitted together: one key-value cache, one more token per step."""

    rows: list[_Row]
    tokens: torch.Tensor
    mask: torch.Tensor
    cache: Any = None


class HFEngine(ScoresPrompts):
    """An engine over a transformers causal LM; every step adds one token to each running request.

    Waiting requests join as a further wave when half of the slots are free. Every request draws from a generator of
    its own, one uniform number per token, so its result depends on the others only by the rounding of the batch.
    Logprobs are those of the distribution that was sampled from; at temperature 0, those at temperature 1.

    Args:
        model: directory or hub id of a Hugging Face causal LM, or such a model itself, which is then used as it is (on
            its device, in its dtype, with its weights of the moment).
        dtype: "auto" takes the checkpoint's; a model that was handed over keeps its own.

    Attributes:
        max_batch: requests that generate at the same time; more wait.
        max_model_len: longest prompt and response together, tokens; None for the model's limit.
    """

    max_batch = 32
    max_model_len: int | None = None

    def __init__(
        self,
        model: str | torch.nn.Module,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
    ) -> None:
        super().__init__(f"hf engine {model if isinstance(model, str) else type(model).__name__}")
        self._source: Any = getattr(model, "name_or_path", model)
        self._path = model if isinstance(model, str) else ""
        if isinstance(model, str):
            self.model = model
        self._module: Any = None if isinstance(model, str) else model
        self.precision = dtype if isinstance(model, str) else ""
        self._dtype = dtype
        self._queue: deque[_Row] = deque()
        self._waves: list[_Wave] = []
        self._ends: frozenset[int] = frozenset()

    @property
    def dtype(self) -> torch.dtype | None:
        """Compute dtype of the weights; None with dtype "auto" before the start."""
        if self._module is not None:
            first: torch.Tensor = next(iter(self._module.parameters()))
            return first.dtype
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(self._dtype)

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer."""
        if isinstance(self._source, str):
            from transformers import AutoTokenizer

            try:
                self._source = AutoTokenizer.from_pretrained(self._source)
            except (OSError, ValueError) as error:
                got = f"no tokenizer at {self._source!r}"
                raise EngineError(got, "one beside the model, whose name_or_path it is", self._name) from error
        tokenizer: PreTrainedTokenizerBase = self._source
        return tokenizer

    def close(self) -> None:
        """Fail what is in flight, and drop a model that the engine loaded itself."""
        with self._lock:
            self._fail_all(RuntimeError("the engine was closed"))
            if self._path:
                self._module, self._started, self._version = None, False, None

    def _start(self) -> None:
        if self._module is None:
            from transformers import AutoModelForCausalLM

            try:
                self._module = AutoModelForCausalLM.from_pretrained(self._path, dtype=self._dtype)
            except (OSError, ValueError) as error:
                raise EngineError(f"a model that does not load: {error}", "a causal LM", self._name) from error
            if torch.cuda.is_available():
                self._module.to("cuda")
            self._module.eval()
        ends = self._module.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        self._ends = frozenset(end for end in [*listed, self.tokenizer.eos_token_id] if end is not None)

    def _context(self) -> int:
        limit = int(self._module.config.get_text_config().max_position_embeddings)
        return min(limit, self.max_model_len or limit)

    def _admit(self, request: Request, ids: tuple[int, ...]) -> None:
        size = self._module.get_input_embeddings().num_embeddings
        outside = [index for index in ids if not 0 <= index < size]
        if outside:
            where = f"{self._name}, request {request.request_id!r}"
            raise EngineError(f"token id {outside[0]}", f"ids in [0, {size})", where)
        generator = torch.Generator().manual_seed(request.seed)
        budget = min(request.sampling.max_tokens, self._context() - len(ids))
        self._queue.append(_Row(request.request_id, ids, request.sampling, generator, budget, request.stop))

    def _written(self, request_id: str) -> int:
        return sum(len(row.ids) for wave in self._waves for row in wave.rows if row.request_id == request_id)

    def _abort(self, request_ids: list[str]) -> None:
        gone = set(request_ids)
        self._queue = deque(row for row in self._queue if row.request_id not in gone)
        for wave in self._waves:
            _keep(wave, [place for place, row in enumerate(wave.rows) if row.request_id not in gone])
        self._waves = [wave for wave in self._waves if wave.rows]

    def _advance(self) -> Iterator[Generated]:
        self._admit_wave()
        training = self._module.training
        self._module.eval()
        try:
            for wave in self._waves:
                yield from self._decode(wave)
        finally:
            self._module.train(training)
        self._waves = [wave for wave in self._waves if wave.rows]

    def _admit_wave(self) -> None:
        free = self.max_batch - sum(len(wave.rows) for wave in self._waves)
        # Not one by one as slots fall free: many waves of one row each would be slow.
        if not self._queue or free < min(len(self._queue), (self.max_batch + 1) // 2):
            return
        rows = [self._queue.popleft() for _ in range(min(free, len(self._queue)))]
        # Left-padded, so that every row's next token is in the last column: reverse, pad on the right, reverse back.
        tokens = pad_rows([row.prompt[::-1] for row in rows], 0, torch.long).flip(1)
        mask = pad_rows([[1] * len(row.prompt) for row in rows], 0, torch.long).flip(1)
        device = self._module.device
        self._waves.append(_Wave(rows, tokens.to(device), mask.to(device)))

    # no_grad and not inference_mode: buffers that the model writes must stay usable in training.
    @torch.no_grad()
    def _forward(self, wave: _Wave) -> torch.Tensor:
        positions = (wave.mask.cumsum(1) - 1).clamp(min=0)[:, -wave.tokens.shape[1] :]
        out = self._module(
            input_ids=wave.tokens,
            attention_mask=wave.mask,
            position_ids=positions,
            past_key_values=wave.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        wave.cache = out.past_key_values
        logits: torch.Tensor = out.logits[:, -1]
        return logits.float().cpu()

    def _decode(self, wave: _Wave) -> list[Generated]:
        """Add one token to every row of a wave, and take out the rows that are finished."""
        uniforms = torch.cat([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in wave.rows])
        ids, logprobs = sample_tokens(self._forward(wave), [row.sampling for row in wave.rows], uniforms)
        finished, running = [], []
        for place, (row, index, logprob) in enumerate(zip(wave.rows, ids.tolist(), logprobs.tolist(), strict=True)):
            row.ids.append(index)
            row.logprobs.append(logprob)
            stopped = index in self._ends or self._found_stop(row)
            if stopped or len(row.ids) == row.budget:
                reason: FinishReason = "stop" if stopped else "length"
                finished.append(Generated(row.request_id, tuple(row.ids), tuple(row.logprobs), reason))
            else:
                running.append(place)
        wave.tokens = ids[:, None].to(wave.mask.device)
        wave.mask = torch.cat([wave.mask, torch.ones_like(wave.mask[:, :1])], dim=1)
        _keep(wave, running)
        return finished

    def _found_stop(self, row: _Row) -> bool:
        """Whether the last token completed a stop string."""
        if not row.stop:
            return False
        # A character is spread over at most four tokens, its bytes; the last token may have text beyond the string.
        tail = row.ids[-4 * max(map(len, row.stop)) - 1 :]
        text = self.tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in text for stop in row.stop)

    def _score(self, pairs: Sequence[Pair]) -> list[Score]:
        training = self._module.training
        self._module.eval()
        try:
            return hf_scores(self._module, pairs)
        finally:
            self._module.train(training)

    def _parameter_names(self) -> ParameterNames:
        return ParameterNames.of(self._module)

    @torch.no_grad()
    def _replace(self, named_tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        parameters = dict(self._module.named_parameters())
        for name, tensor in named_tensors:
            if tensor.shape != parameters[name].shape:
                got, expected = tuple(tensor.shape), tuple(parameters[name].shape)
                raise EngineError(f"shape {got}", f"shape {expected}", f"{self._name}, parameter {name}")
            # A model that was handed over may be pushed to itself.
            if tensor.data_ptr() != parameters[name].data_ptr():
                parameters[name].copy_(tensor)


def _keep(wave: _Wave, places: Sequence[int]) -> None:
    """Drop all rows of a wave but these."""
    if len(places) == len(wave.rows):
        return
    index = torch.tensor(list(places), dtype=torch.long, device=wave.mask.device)
    wave.rows = [wave.rows[place] for place in places]
    wave.tokens, wave.mask = wave.tokens[index], wave.mask[index]
    if wave.cache is not None and places:
        wave.cache.batch_select_indices(index)


def sample_tokens(
    logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by inverting the cumulative distribution: the first id with cdf(id) > u.

    Args:
        logits: (n, V) float32.
        samplings: n ways of drawing; temperature 0 takes the likeliest token.
        uniforms: (n,) float64 in [0, 1).

    Returns:
        ids: (n,) int64.
        logprobs: (n,) float32, under the tempered and truncated distribution (temperature 0: log_softmax(logits)).
    """
    # Greedy rows are neither tempered nor truncated: their logprobs would all be 0.
    greedy = torch.tensor([sampling.temperature == 0 for sampling in samplings])
    temperature = torch.tensor([sampling.temperature or 1.0 for sampling in samplings])
    scaled = logits / temperature[:, None]
    if any(sampling.truncates and sampling.temperature for sampling in samplings):
        top_k = torch.tensor([(s.temperature and s.top_k) or logits.shape[1] for s in samplings], dtype=torch.long)
        top_p = torch.tensor([s.top_p if s.temperature else 1.0 for s in samplings])
        scaled = truncate(scaled, top_k, top_p)
    logprobs = torch.log_softmax(scaled, dim=-1)
    cdf = logprobs.double().exp().cumsum(dim=-1)
    drawn = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    ids = torch.where(greedy, logits.argmax(dim=-1), drawn)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]


def truncate(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set to -inf what is not among the k likeliest, then what is outside the smallest set of mass >= p.

    Args:
        logits: (n, V) float32, tempered.
        top_k: (n,) int64 >= 1.
        top_p: (n,) float in (0, 1]; 1 keeps every token.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1])
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    mass = ordered.double().softmax(dim=-1)
    # A token stays while the likelier ones have not reached p; the likeliest always stays.
    outside = (mass.cumsum(dim=-1) - mass >= top_p[:, None]) & (rank > 0) & (top_p[:, None] < 1)
    return torch.full_like(logits, -torch.inf).scatter(1, order, ordered.masked_fill(outside, -torch.inf))
