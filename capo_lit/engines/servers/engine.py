"""VLLMServers: rollouts from vLLM servers beside the trainer, which take its weights before every step."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from secrets import token_hex
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeVar

import torch

from capo_lit.batch.facts import Completion
from capo_lit.core import ranks
from capo_lit.core.errors import CapoError, ConfigError, EngineError, check_settings
from capo_lit.engines.base import Request, SyncsWeights
from capo_lit.engines.chat import prompt_ids
from capo_lit.engines.http.protocol import AttemptError
from capo_lit.engines.http.remote import RemoteEngine
from capo_lit.engines.http.servers import MOST_CONNECTIONS, Server, checked_url, connect
from capo_lit.engines.http.session import Session
from capo_lit.engines.local import Generated, ParameterNames, PushedWeights, refuse_in_flight
from capo_lit.engines.pieces import decode_pieces
from capo_lit.engines.servers.control import call, check_given
from capo_lit.engines.servers.files import Pushed, WeightFolder
from capo_lit.engines.servers.fleet import Fleet, Member
from capo_lit.engines.servers.launch import OwnServer, ServerSettings, gpus_of, own_servers
from capo_lit.engines.servers.plugin import FILES
from capo_lit.engines.servers.tokens import ROUTE, body_of, prompt_counts, read_answer
from capo_lit.engines.vllm_process import random_state_kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from capo_lit.engines.servers.nccl import NcclSender

T = TypeVar("T")
_NCCL = "nccl"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_MOST_ATTEMPTS = 6
_NO_KEY = "no-key-needed"


class VLLMServers(RemoteEngine, SyncsWeights):
    """Rollouts from several vLLM servers, which go on while the trainer trains.

    Servers are ours, started on this machine at the first push of weights and ended with this process, or others'.
    All of one prompt's rollouts go to one server, which then computes the prompt once. Every completion must come from
    the weights of the last push, whole. A server that dies is started anew (others' are waited for), is given the
    weights again, and its requests are asked again with their seeds, so that in float32 the run is the same. Of several
    trainer processes each sends its own requests, and the first pushes.

    Args:
        model: directory or hub id; its architecture and tokenizer are read here too.
        servers: how many to start, or the URLs of running ones, started as docs/howto/rollout-servers.md says.
        gpus: of each server to start, by number ("6", or "4,5" to split the model); null on a machine without.
        transfer: how weights reach servers: in files of this folder, which all of them see; null is this machine's
            memory, for servers of this machine; nccl goes from GPU to GPU.
        dtype: that servers compute in.
        max_model_len: longest prompt and response together, tokens.
        max_num_seqs: requests that one server computes at a time; the rest wait here.
        kv_cache_gib: key-value cache of a server to start, GiB; CPU only.
        gpu_memory_utilization: share of its GPUs' memory, in (0, 1]; GPU only.
        timeout_s: of every wait: for a server to start, a push, one attempt at a request, seconds.
    """

    def __init__(  # noqa: PLR0913  (every one is a setting of its own in a config)
        self,
        model: str,
        servers: int | list[str] = 1,
        gpus: list[str] | None = None,
        transfer: str | None = None,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        max_model_len: int = 4096,
        max_num_seqs: int = 64,
        kv_cache_gib: float = 0.5,
        gpu_memory_utilization: float = 0.9,
        timeout_s: float = 600.0,
    ) -> None:
        count = servers if isinstance(servers, int) else len(servers)
        super().__init__(f"vllm servers {model}", max(1, count * max_num_seqs), timeout_s)
        most = MOST_CONNECTIONS
        checks = (
            (count >= 1, f"servers {servers}", "a number of at least 1, or URLs", "servers"),
            (
                transfer is None or transfer == _NCCL or "/" in transfer,
                f"transfer {transfer!r}",
                "nccl, or the path of a folder, with a slash",
                "transfer",
            ),
            (dtype in _DTYPES, f"dtype {dtype!r}", "float32 or bfloat16", "dtype"),
            (max_model_len >= 2, f"max_model_len {max_model_len}", "an integer >= 2", "max_model_len"),
            (1 <= max_num_seqs <= most, f"max_num_seqs {max_num_seqs}", f"1 to {most}", "max_num_seqs"),
            (kv_cache_gib > 0, f"kv_cache_gib {kv_cache_gib}", "a number > 0", "kv_cache_gib"),
            (0 < gpu_memory_utilization <= 1, f"{gpu_memory_utilization}", "in (0, 1]", "gpu_memory_utilization"),
        )
        check_settings(checks, self._name)
        if transfer == _NCCL and not torch.cuda.is_available():
            expected = "null, or a folder, on a machine without GPUs"
            raise ConfigError("transfer nccl without a GPU", expected, self._name, "transfer")
        self.model, self.precision, self.transfer = model, dtype, transfer
        self.max_model_len, self.max_num_seqs = max_model_len, max_num_seqs
        self._gpus = gpus_of(servers, gpus) if isinstance(servers, int) else []
        self._urls = [] if isinstance(servers, int) else [checked_url(url).removesuffix("/v1") for url in servers]
        backend = _NCCL if transfer == _NCCL else FILES
        self._settings = ServerSettings(
            model, dtype, max_model_len, max_num_seqs, kv_cache_gib, gpu_memory_utilization, backend
        )
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._fleet: Fleet | None = None
        self._files: WeightFolder | None = None
        self._sender: NcclSender | None = None
        self._version: int | None = None

    @property
    def version(self) -> int | None:
        """Policy version of the weights in use; None before the first push."""
        return self._version

    @property
    def dtype(self) -> torch.dtype | None:
        """Compute dtype of the weights."""
        return _DTYPES[self.precision]

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer, as transformers loads it."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(self.model)
        return self._tokenizer

    @property
    def fleet(self) -> Fleet:
        """The servers.

        Raises:
            EngineError: before the first push of weights, which starts them.
        """
        if self._fleet is None:
            raise EngineError("servers that were not started", "a push of weights first", self._name)
        return self._fleet

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights of all servers, starting them at the first time; see SyncsWeights.load_weights.

        With several trainer processes all of them call it at the same moment.

        Raises:
            EngineError: if requests are in flight, the names are not the model's, or no server takes the weights.
        """
        _together(lambda: refuse_in_flight(self._flights, self._name))
        if self._fleet is None:
            self._start_servers()
        stamp = ranks.from_first(f"{token_hex(4)}:{version}")
        self._version = None
        weights = _together(lambda: self._gather(named_tensors, stamp, version))
        _together(lambda: self._bring(weights))
        self._version = version

    def close(self) -> None:
        """Fail what is in flight, end the servers that are ours, and remove the files of weights."""
        fleet, self._fleet, self._version = self._fleet, None, None
        super().close()
        if fleet is not None:
            fleet.stop()
        if self._files is not None:
            self._files.remove()
            self._files = None

    def _gather(self, named_tensors: Iterable[tuple[str, torch.Tensor]], stamp: str, version: int) -> Pushed:
        """Have the weights where servers find them; over NCCL, in the servers already."""
        pushed, weights = PushedWeights(ParameterNames.of(self._shell)), Pushed(stamp)
        # A generator: of a sharded policy every process takes part in gathering each tensor.
        known = cast(pushed.known(named_tensors), _DTYPES[self.precision])
        try:
            if self._first and self._files is not None:
                weights = self._files.write(known, stamp)
            elif self._first:
                self._send_over_nccl(known, stamp)
        finally:
            # Also after an error: the other processes are still gathering their parts with this one.
            for _ in known:
                pass
        pushed.check(f"{self._name}, version {version}")
        return weights

    def _bring(self, weights: Pushed) -> None:
        """Bring the servers to weights, or wait for those that the first process brings to them."""
        if self._first:
            self._open().spawn(self.fleet.push(weights)).result()
            if self._files is not None:
                self._files.keep(weights)
        else:
            self.fleet.want(weights)

    def _send_over_nccl(self, named_tensors: Iterable[tuple[str, torch.Tensor]], stamp: str) -> None:
        from capo_lit.engines.servers.nccl import NcclSender

        session = self._open()
        if self._sender is None:
            self._sender = NcclSender(session, self._shell, _DTYPES[self.precision], self.timeout_s)
        up = session.spawn(self.fleet.up()).result()
        self._sender.send([member.server for member in up], [member.mark for member in up], named_tensors, stamp)

    def _start_servers(self) -> None:
        own: list[OwnServer] = []
        if self._first:
            self._files = None if self.transfer == _NCCL else WeightFolder(self.transfer)
            own = own_servers(self._settings, self._gpus, self._files, self.log_folder)
        urls = ranks.from_first([one.url for one in own] or self._urls)
        session = self._open()
        session.servers = [connect(url, _NO_KEY) for url in urls]
        members = [Member(server, own[place] if own else None) for place, server in enumerate(session.servers)]
        fleet = Fleet(self._name, members, self._first, self.max_num_seqs, self.timeout_s)
        try:
            _together(lambda: self._wait_for_start(session, fleet))
        except BaseException:
            fleet.stop()
            self.close()
            raise
        self._fleet = fleet
        for member in members:
            session.spawn(fleet.keep(member))

    def _wait_for_start(self, session: Session, fleet: Fleet) -> None:
        if self._first:
            session.spawn(fleet.start()).result()
            for server in session.servers if self._urls else ():
                session.spawn(check_given(server, self.precision, self.max_model_len)).result()

    @property
    def _first(self) -> bool:
        return ranks.rank() == 0

    @cached_property
    def _shell(self) -> torch.nn.Module:
        """The model without its weights: names, shapes, and their order."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self.model)
        with random_state_kept(), torch.device("meta"):
            model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
        return model

    def _connect(self) -> list[Server]:
        return []  # known when the servers have started

    def _refusal(self, request: Request) -> EngineError | None:
        if self._version is None:
            return self._error(request, "servers without the policy's weights", "a complete push first")
        if request.schema is not None:
            return self._error(request, "a JSON schema", "a request without one", "take VLLMEngine or HTTPEngine")
        try:
            ids = prompt_ids(self.tokenizer, request.prompt, self._name)
        except EngineError as error:
            return error
        if len(ids) < self.max_model_len:
            return None
        got, change = f"a prompt of {len(ids)} tokens", "the engine's max_model_len, or drop prompts this long"
        return self._error(request, got, f"fewer than max_model_len {self.max_model_len}", change)

    async def _serve(self, request: Request, session: Session, since: float) -> Completion:
        ids = prompt_ids(self.tokenizer, request.prompt, self._name)
        try:
            async with session.slots:
                generated = await self._generated(request, ids)
        except asyncio.CancelledError:
            if self._session is session:
                raise
            raise self._error(request, "an engine that was closed", "an open one until the request is done") from None
        pieces, special, text = decode_pieces(self.tokenizer, generated.ids)
        return Completion(
            request_id=request.request_id,
            ids=generated.ids,
            pieces=pieces,
            special=special,
            text=text,
            logprobs=generated.logprobs,
            finish_reason=generated.finish_reason,
            prompt_tokens=len(ids),
            version=self._version,
            seconds=perf_counter() - since,
        )

    async def _generated(self, request: Request, ids: tuple[int, ...]) -> Generated:
        """What the servers generate for a request, in as many attempts as that takes.

        Raises:
            EngineError: if they refuse it, none works, or too many attempts have failed.
        """
        fleet, number = self.fleet, 0
        while True:
            number += 1
            ready = await fleet.ready()
            try:
                with fleet.lend(ids, ready) as member:
                    return await self._attempt(request, ids, member, fleet)
            except AttemptError as error:
                self._count(error)
                if error.final or number >= _MOST_ATTEMPTS:
                    said, change = f"{error.said} at attempt {number}", "the servers' logs, or timeout_s"
                    raise self._error(request, said, "a response", change) from error

    async def _attempt(self, request: Request, ids: tuple[int, ...], member: Member, fleet: Fleet) -> Generated:
        assert fleet.weights is not None
        stamp, name = fleet.weights.stamp, f"{request.request_id}-{token_hex(4)}"
        try:
            answer = await call(member.server, ROUTE, body_of(request, ids, name), self.timeout_s)
            generated = read_answer(answer, request.request_id, stamp)
        except AttemptError as error:
            if not error.final:
                member.doubt()
            raise
        read, cached = prompt_counts(answer)
        self.prompt_tokens += read
        self.cached_tokens += cached
        return generated


def cast(named_tensors: Iterable[tuple[str, torch.Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors as servers compute with them: in bf16 half as much travels."""
    for name, tensor in named_tensors:
        yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor


def _together(act: Callable[[], T]) -> T:
    """Do what may fail; where it fails for one process of the trainer, raise for all."""
    failed: CapoError | None = None
    try:
        done = act()
    except CapoError as error:
        failed = error
    ranks.raise_together(failed)
    return done
