"""Adapters beside the weights of a vLLM engine: a push brings them alone, and the base below them still answers.

vLLM keeps computed prompts under an adapter's name, and an adapter under its number. So every push has a name of its
own, or prompts would be taken from the cache of older adapters; and it says `load_inplace`, or nothing would be loaded.
On a CPU vLLM (0.32) gives rows without an adapter that of another row of their batch. So rows of the base have one too,
which is zero; on a GPU as well, so that what runs there is what the tests of this repository run.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Adapters

if TYPE_CHECKING:
    from vllm import LLM
    from vllm.lora.request import LoRARequest

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for
_POLICY, _BASE = 1, 2  # vLLM's numbers of the two
SLOTS = 2


def slot_rank(rank: int) -> int:
    """Rank of the slot that holds adapters of a rank >= 1; 0 if there is none as large."""
    return next((room for room in _RANKS if room >= rank), 0)


class AdapterSlots:
    """The policy's adapters and the zero ones, in vLLM and in the files that it may read again.

    Args:
        rank: of a slot, one of vLLM's.
        layers: that carry them, such as q_proj.
    """

    def __init__(self, rank: int, layers: Sequence[str]) -> None:
        self._rank, self._layers = rank, list(layers)
        self._files: TemporaryDirectory[str] | None = None
        self._pushes = 0
        self._named: dict[int, LoRARequest] = {}

    @property
    def arguments(self) -> dict[str, Any]:
        """Of LLM; other layers, such as the head, get no slot."""
        return {
            "enable_lora": True,
            "max_loras": SLOTS,
            "max_lora_rank": self._rank,
            "lora_target_modules": self._layers,
        }

    def hold(self, adapters: Adapters) -> bool:
        """Whether there is room for such adapters."""
        return adapters.rank <= self._rank and set(adapters.layers) <= set(self._layers)

    def request(self, base: bool) -> "LoRARequest | None":
        """What a request names as its adapters; None where the weights are whole."""
        return self._named.get(_BASE if base else _POLICY)

    def clear(self) -> None:
        """Forget the adapters: the weights are whole, or others."""
        self._named = {}
        if self._files is not None:
            self._files.cleanup()
            self._files = None

    def put(self, llm: "LLM", adapters: Adapters, version: int) -> None:
        """Bring the policy's adapters into the engine, and the zero ones with the first.

        Raises:
            EngineError: if vLLM does not take them.
        """
        try:
            if _BASE not in self._named:
                zero = {name: (torch.zeros_like(a), torch.zeros_like(b)) for name, (a, b) in adapters.pairs.items()}
                self._load(llm, _BASE, "base", replace(adapters, pairs=zero))
            # Not the version alone, which two policies on one engine may share.
            self._pushes += 1
            self._load(llm, _POLICY, f"version {version}, push {self._pushes}", adapters)
        except (ValueError, RuntimeError) as error:
            raise EngineError(
                f"adapters that vLLM does not take: {error}",
                "adapters on layers that it knows",
                change="--rollout.engine (HFEngine and VLLMServers take merged weights)",
            ) from error

    def _load(self, llm: "LLM", number: int, name: str, adapters: Adapters) -> None:
        from vllm.lora.request import LoRARequest

        self._files = self._files or TemporaryDirectory(prefix="capo_adapters_")
        folder = Path(self._files.name) / str(number)
        dtype: Any = llm.llm_engine.model_config.dtype
        write_adapters(adapters, folder, dtype)
        llm.llm_engine.add_lora(LoRARequest(name, number, str(folder), load_inplace=True))
        # Without `load_inplace`, with which vLLM would read the files again at every step.
        self._named[number] = LoRARequest(name, number, str(folder))


def write_adapters(adapters: Adapters, folder: Path, dtype: torch.dtype) -> None:
    """Write adapters in peft's format.

    Args:
        adapters: of a policy.
        folder: made if it is not there; what it holds is replaced.
        dtype: that they are written in.
    """
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    tensors = {
        f"base_model.model.{name}.lora_{part}.weight": tensor.detach().to("cpu", dtype).contiguous()
        for name, pair in adapters.pairs.items()
        for part, tensor in zip("AB", pair, strict=True)
    }
    # Not into the old file, which vLLM may have mapped.
    save_file(tensors, folder / "new")
    (folder / "new").replace(folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapters.rank,
        "lora_alpha": adapters.scale * adapters.rank,
        "target_modules": adapters.layers,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
