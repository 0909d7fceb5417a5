"""vLLM in this process: rollouts that share their prompt's cache, weights replaced in place, sleep on GPUs."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch

from capo_lit.batch.facts import FinishReason
from capo_lit.core.errors import EngineError, check_settings
from capo_lit.engines import vllm_process
from capo_lit.engines.adapters import AdapterSlots, slot_rank
from capo_lit.engines.base import Adapters, Request
from capo_lit.engines.local import Generated, ParameterNames
from capo_lit.engines.scores import Pair, Score, ScoresPrompts, vllm_scores
from capo_lit.engines.vllm_process import process_kept, random_state_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

# Smaller blocks share more of a prompt between its rollouts; vLLM's default of 128 on CPU shares nothing below 128.
_CPU_BLOCK = 32


class VLLMEngine(ScoresPrompts):
    """An engine over vLLM, in this process, on CPU and GPU alike; vLLM is imported and started at first use.

    Logprobs are those of the distribution that was sampled from (temperature and truncation applied); at temperature
    0, those at temperature 1. Random states, threads and environment of the process are left as they were.

    On a GPU one engine of a process can give its memory to the trainer, and the first that starts is the one: after
    `rest`, and until weights are pushed anew, if its weights are pushed; else whenever no request is in flight. Any
    further engine keeps its share. In a data-parallel process it runs on the process's own device, and all processes
    must start their engines together.

    Two limits come from vLLM: on CPU a head size of 16 cannot run, and torch.distributed is initialised, with this
    process alone, unless the trainer has done so before.

    Args:
        model: directory or hub id of a Hugging Face causal LM.
        dtype: "auto" takes the checkpoint's.
        max_model_len: longest prompt and response together, tokens.
        max_num_seqs: requests that generate at the same time; more wait.
        kv_cache_gib: key-value cache, GiB; CPU only.
        gpu_memory_utilization: share of the GPU's memory for weights and cache, in (0, 1]; GPU only.
    """

    takes_schema = True

    def __init__(
        self,
        model: str,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        max_model_len: int = 4096,
        max_num_seqs: int = 64,
        kv_cache_gib: float = 0.5,
        gpu_memory_utilization: float = 0.4,
    ) -> None:
        super().__init__(f"vllm engine {model}")
        checks = (
            (max_model_len >= 2, f"max_model_len {max_model_len}", "an integer >= 2", "max_model_len"),
            (max_num_seqs >= 1, f"max_num_seqs {max_num_seqs}", "an integer >= 1", "max_num_seqs"),
            (kv_cache_gib > 0, f"kv_cache_gib {kv_cache_gib}", "a number > 0", "kv_cache_gib"),
            (0 < gpu_memory_utilization <= 1, f"{gpu_memory_utilization}", "in (0, 1]", "gpu_memory_utilization"),
        )
        check_settings(checks, self._name)
        self.model, self.precision = model, dtype
        self._arguments: dict[str, Any] = {
            "model": model,
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
        }
        self._kv_cache_gib, self._gpu_share = kv_cache_gib, gpu_memory_utilization
        self._llm: LLM | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._names: ParameterNames | None = None
        self._internal: dict[str, str] = {}
        self._slots: AdapterSlots | None = None
        self._cpu = self._sleeps = self._asleep = False
        self.prompt_tokens = 0
        """Prompt tokens of all finished requests."""
        self.cached_tokens = 0
        """Those of them that were taken from the prefix cache instead of being computed."""

    @property
    def dtype(self) -> torch.dtype | None:
        """Compute dtype of the weights; None with dtype "auto" before the start."""
        if self._llm is not None:
            dtype = self._llm.llm_engine.model_config.dtype
            return dtype if isinstance(dtype, torch.dtype) else None
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(str(self._arguments["dtype"]))

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer, as transformers loads it."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.model)
        return self._tokenizer

    def hold_adapters(self, adapters: Adapters | None) -> bool:
        """Make room for a policy's adapters, unless the engine runs already; see SyncsWeights.hold_adapters."""
        with self._lock:
            if not self._started:
                rank = slot_rank(adapters.rank) if adapters else 0
                self._slots = AdapterSlots(rank, adapters.layers) if adapters and rank else None
            self.takes_base = adapters is not None and self._slots is not None and self._slots.hold(adapters)
            return self.takes_base

    def load_adapters(
        self, adapters: Adapters, version: int, base: Iterable[tuple[str, torch.Tensor]] | None = None
    ) -> None:
        """Replace the policy's adapters; see SyncsWeights.load_adapters.

        Raises:
            EngineError: if requests are in flight, there is no base, or vLLM does not take the adapters.
        """
        if self._slots is None:
            raise EngineError("adapters", "an engine that was asked to hold them before its start", self._name)
        with self._lock:
            if base is None and (self._version is None or self._fault is not None):
                raise EngineError("adapters on weights that were not pushed", "a push of their base", self._name)
            with self._pushing(version):
                if base is not None:
                    self._load(base, version)
                self._wake()
                with random_state_kept():
                    self._slots.put(self._running, adapters, version)

    def close(self) -> None:
        """Give back the model's memory; with the last open engine, also vLLM's process groups."""
        with self._lock:
            self._fail_all(RuntimeError("the engine was closed"))
            llm, self._llm, self._started, self._version = self._llm, None, False, None
            self._asleep, self._fault = False, None
            if self._slots is not None:
                self._slots.clear()
            if llm is not None:
                vllm_process.release(llm)

    def rest(self) -> None:
        """Give a GPU's memory back until the next use; see Engine.rest.

        Weights that a push brought are dropped, not copied to the host: the next push brings others anyway. Requests
        are refused until then. Weights below adapters are copied, since the next push brings adapters alone.

        Raises:
            EngineError: if requests are in flight.
        """
        with self._lock:
            if not self._sleeps or self._asleep or self._llm is None:
                return
            if self._flights:
                raise EngineError(f"rest with {len(self._flights)} requests in flight", "none", self._name)
            if (self._version is None or self._adapters()) and self._fault is None:
                self._sleep(1)
                return
            self._sleep(2)
            expected = "weights pushed again before the next request (Sampler.push)"
            self._fault = EngineError("a request after the weights were dropped", expected, self._name)
            self._version = None

    def _adapters(self, base: bool = False) -> "LoRARequest | None":
        return None if self._slots is None else self._slots.request(base)

    @property
    def _running(self) -> "LLM":
        if self._llm is None:
            raise EngineError("an engine that was not started, or was closed", "a running engine", self._name)
        return self._llm

    def _start(self) -> None:
        # In this process, or weights could not be handed over by reference. Read when the engine is built.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        for name, value in (("VLLM_NO_USAGE_STATS", "1"), ("DO_NOT_TRACK", "1"), ("VLLM_LOGGING_LEVEL", "ERROR")):
            os.environ.setdefault(name, value)
        with process_kept():
            try:
                from vllm import LLM
                from vllm.platforms import current_platform
            except ImportError as error:
                raise EngineError(
                    f"no vllm ({error})",
                    "vllm installed",
                    self._name,
                    "pip install 'capo_lit[vllm]' (GPU) or 'capo_lit[cpu]', or take capo_lit.HFEngine",
                ) from error
            vllm_process.prepare()
            self._cpu = bool(current_platform.is_cpu())
            self._sleeps = not self._cpu and vllm_process.may_sleep()
            try:
                self._llm = LLM(**self._arguments, **self._platform_arguments())
            except (ValueError, RuntimeError, OSError, AssertionError) as error:
                change = "" if self._cpu else "gpu_memory_utilization (of this engine and of others in its process)"
                raise EngineError(
                    f"a vLLM that does not start: {error}", "a running engine", self._name, change
                ) from error
        vllm_process.keep(self._llm)

    def _platform_arguments(self) -> dict[str, Any]:
        common: dict[str, Any] = {
            "seed": 0,
            "enable_prefix_caching": True,
            "logprobs_mode": "processed_logprobs",
            "disable_log_stats": True,
            # A weak model that may put white space between two tokens of JSON puts nothing else there.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "use_tqdm_on_load": False,
            "enforce_eager": self._cpu,  # compiling takes a minute there, and gains nothing
            **vllm_process.launcher(),
            **(self._slots.arguments if self._slots is not None else {}),
        }
        if self._cpu:
            # Chunked prefill winds a seeded request's generator back, which the CPU's cannot do: vLLM would crash.
            cpu = {"block_size": _CPU_BLOCK, "enable_chunked_prefill": False}
            return common | cpu | {"kv_cache_memory_bytes": int(self._kv_cache_gib * 2**30)}
        return common | {"gpu_memory_utilization": self._gpu_share, "enable_sleep_mode": self._sleeps}

    def _context(self) -> int:
        return int(self._running.llm_engine.model_config.max_model_len)

    def _admit(self, request: Request, ids: tuple[int, ...]) -> None:
        from vllm.exceptions import VLLMError
        from vllm.inputs import TokensPrompt

        self._wake()
        engine, prompt = self._running.llm_engine, TokensPrompt(prompt_token_ids=list(ids))
        try:
            with random_state_kept():
                params, adapters = sampling_params(request), self._adapters(request.base)
                self._internal[request.request_id] = engine.add_request(
                    request.request_id, prompt, params, lora_request=adapters
                )
        except (VLLMError, ValueError, TypeError) as error:
            where = f"{self._name}, request {request.request_id!r}"
            raise EngineError(str(error), "a request that vLLM accepts", where) from error

    @property
    def longest_scored(self) -> int:
        """Longest context and continuation together: vLLM takes no prompt that leaves no room for a response."""
        return self.context - 1

    def _score(self, pairs: Sequence[Pair]) -> list[Score]:
        self._wake()
        return vllm_scores(self._running, pairs, self._adapters())

    def _written(self, request_id: str) -> int:
        states = self._running.llm_engine.output_processor.request_states
        detokenizer: Any = states[self._internal[request_id]].detokenizer
        return int(detokenizer.num_output_tokens())

    def _abort(self, request_ids: list[str]) -> None:
        internal = [self._internal.pop(request_id) for request_id in request_ids]
        if self._llm is not None:
            self._llm.llm_engine.abort_request(internal, internal=True)

    def _advance(self) -> Iterable[Generated | tuple[str, EngineError]]:
        with random_state_kept():
            outputs = self._running.llm_engine.step()
        return [self._collect(output) for output in outputs if output.finished]

    def _collect(self, output: Any) -> Generated | tuple[str, EngineError]:
        request_id, answer = output.request_id, output.outputs[0]
        del self._internal[request_id]
        self.prompt_tokens += len(output.prompt_token_ids or ())
        self.cached_tokens += output.num_cached_tokens or 0
        ids, logprobs = tuple(answer.token_ids), tuple(getattr(answer.logprobs, "logprobs", ()))
        reasons: dict[str | None, FinishReason] = {"stop": "stop", "length": "length"}
        if answer.finish_reason not in reasons or len(ids) != len(logprobs):
            got = f"finish_reason {answer.finish_reason!r} with {len(ids)} tokens and {len(logprobs)} logprobs"
            return request_id, EngineError(got, "a finished response", f"{self._name}, request {request_id!r}")
        return Generated(request_id, ids, logprobs, reasons[answer.finish_reason])

    def _idle(self) -> None:
        # Weights that are pushed stay awake until `rest`: between two requests nobody may be there to push them again.
        if self._sleeps and self._version is None and self._llm is not None and not self._asleep:
            self._sleep(1)

    def _sleep(self, level: int) -> None:
        self._running.llm_engine.sleep(level=level)
        self._asleep = True

    def _wake(self) -> None:
        if self._asleep:
            self._running.llm_engine.wake_up()
            self._asleep = False

    def _parameter_names(self) -> ParameterNames:
        if self._names is None:
            from transformers import AutoModelForCausalLM

            config = self._running.llm_engine.model_config.hf_config
            with random_state_kept(), torch.device("meta"):
                self._names = ParameterNames.of(AutoModelForCausalLM.from_config(config))
        return self._names

    def _replace(self, named_tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        self._wake()
        if self._slots is not None:
            self._slots.clear()
        llm, dtype = self._running, self.dtype
        # Cast here: vLLM would, with one warning per tensor.
        cast = ((name, tensor.to(dtype) if tensor.is_floating_point() else tensor) for name, tensor in named_tensors)
        with random_state_kept():
            llm.collective_rpc("reload_weights", kwargs={"weights_iterator": cast})
            if self._cpu:
                llm.apply_model(vllm_process.repack)
            if not llm.reset_prefix_cache():
                raise EngineError("a prefix cache that cannot be reset", "no request in flight", self._name)


def sampling_params(request: Request) -> "SamplingParams":
    """How vLLM is to draw a response.

    Args:
        request: what is asked; its schema becomes a grammar, whose tokens alone can be drawn.

    Raises:
        ValueError: if vLLM refuses the values.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    sampling = request.sampling
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=request.seed,
        stop=list(request.stop),
        # vLLM needs the text only to look for stop strings; ours comes from the ids.
        detokenize=bool(request.stop),
        logprobs=0,
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=None if request.schema is None else StructuredOutputsParams(json=dict(request.schema)),
    )
