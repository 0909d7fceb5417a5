"""What several vLLM engines in one process share or leave behind: process groups, and packed weights."""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm import LLM

# Shutting one engine down tears down the process groups that all of them use, and so would its collection as garbage:
# every engine is held here until it is closed, and only the last one to close takes the groups with it.
_OPEN: "list[LLM]" = []


class _Groups:
    """Whether torch.distributed's groups were there before the first engine, and so belong to the trainer."""

    borrowed = False


def prepare() -> None:
    """Note whose process groups those are that the next engine will find."""
    if not _OPEN:
        _Groups.borrowed = torch.distributed.is_available() and torch.distributed.is_initialized()


def keep(llm: "LLM") -> None:
    """Hold an engine until `release`."""
    _OPEN.append(llm)


def release(llm: "LLM") -> None:
    """Free an engine's weights and cache; with the last engine, the process groups that vLLM made as well."""
    _OPEN.remove(llm)
    client: Any = llm.llm_engine.engine_core
    if _OPEN or _Groups.borrowed:
        client._finalizer.detach()
        client.engine_core.model_executor.shutdown()
    else:
        client.shutdown()


def repack(model: torch.nn.Module) -> None:
    """Build the packed copy of every CPU weight that was kept beside it anew.

    Layers whose weight lives in the packed copy alone are packed again by the reload itself. A tied lm_head is not: no
    tensor is loaded under its name, so without this it goes on answering with the old weights, silently.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and isinstance(weight, torch.Tensor) and weight.numel():
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
