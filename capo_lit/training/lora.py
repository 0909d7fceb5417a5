"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: what trains is small.

Every linear layer W but the head computes (W + 2 B A) x, with W frozen: the paper's scale alpha / rank is 2, and the
learning rate does the rest. An engine that holds adapters gets A and B; others, and exported policies, get the sum
under the model's own names.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from capo_lit.core.seeding import derive_seed
from capo_lit.engines.base import Adapters
from capo_lit.training.model_shape import adaptable

_ADAPTER = "default"  # peft's name for the first
_SCALE = 2  # alpha / rank
_BASE = ".base_layer"  # what peft puts into the names of layers that carry one


def add_adapters(model: Any, rank: int, seed: int) -> Any:
    """Freeze a model and put adapters on it, in place; its outputs are unchanged, since B starts at 0.

    Args:
        model: a Hugging Face causal LM.
        rank: of B A, >= 1.
        seed: of the run; A is drawn from it, alike on every process.

    Returns:
        The model itself; of its parameters only the adapters, float32, get gradients.
    """
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    targets = sorted({name for name, _ in adaptable(model)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "lora"))
        peft = PeftConfig(r=rank, lora_alpha=_SCALE * rank, target_modules=targets, lora_dropout=0.0)
        inject_adapter_in_model(peft, model)
    return model


def has_adapters(model: nn.Module) -> bool:
    """Whether `add_adapters` was called on it."""
    return any(_adapted(model))


@torch.no_grad()
def merged_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights that a model with adapters computes with, under its own names, one tensor at a time.

    Yields:
        Name and detached tensor; merged ones are float32.
    """
    layers: dict[str, Any] = dict(_adapted(model))
    for name, weight in base_weights(model):
        layer = layers.get(name.removesuffix(".weight"))
        yield name, weight if layer is None else weight.float() + layer.get_delta_weight(_ADAPTER).float()


def base_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The frozen weights below the adapters, detached and under the model's own names."""
    for name, parameter in model.named_parameters():
        if ".lora_" not in name:
            yield name.replace(f"{_BASE}.", "."), parameter.detach()


def adapters_of(model: nn.Module) -> Adapters:
    """The adapters of a model, detached."""
    layers = dict(_adapted(model))
    rank = next(iter(layers.values())).r[_ADAPTER]
    pairs = {
        name: (layer.lora_A[_ADAPTER].weight.detach(), layer.lora_B[_ADAPTER].weight.detach())
        for name, layer in layers.items()
    }
    return Adapters(rank, _SCALE, pairs)


def _adapted(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of everything that carries adapters."""
    return ((name, part) for name, part in model.named_modules() if hasattr(part, _BASE[1:]))


def adapters_only(state: dict[str, torch.Tensor], model: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """A state dict without the frozen weights, which the run's first policy has.

    Args:
        state: of a module that holds the model.
        model: with adapters.
        prefix: of the model's names in it.
    """
    frozen = {
        prefix + name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if not parameter.requires_grad
    }
    return {name: tensor for name, tensor in state.items() if name not in frozen}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Within it, the model computes as it did before it got adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in model.modules() if isinstance(part, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(enabled=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(enabled=True)


def halve_base(model: nn.Module) -> None:
    """Hold the frozen weights in bfloat16, as the engine does; the adapters stay float32."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)
