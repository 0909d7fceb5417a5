"""Loading a policy: a Hugging Face causal LM in fp32, with every dropout off and a head that can be scored."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import AutoConfig, AutoModelForCausalLM

from capo_lit.core.errors import ConfigError
from capo_lit.training.logprobs import check_head, packs_exactly
from capo_lit.training.packing import disable_packing, enable_packing

_DEFERRED = ContextVar("loading_deferred", default=False)


@contextmanager
def loading_deferred() -> Iterator[None]:
    """Modules built within load no policy: where it is to lie in shards, not every process need read and hold it."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


def is_deferred() -> bool:
    """Whether this is within `loading_deferred`."""
    return _DEFERRED.get()


def policy_config(path: str) -> Any:
    """The model's configuration with every dropout off.

    Dropout would make the trainer's policy another one than the engine's: with it the ratio of an unchanged policy is
    not 1.

    Raises:
        OSError, ValueError: as transformers has them, if there is no such model.
    """
    config = AutoConfig.from_pretrained(path)
    text = config.get_text_config()
    for name, value in text.to_dict().items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(text, name, 0.0)
    return config


def load_policy(path: str, gradient_checkpointing: bool = False) -> Any:
    """Load a causal LM in fp32, on the CPU. Code from the model's repository is never run.

    Args:
        path: directory or hub id.
        gradient_checkpointing: recompute activations in the backward pass.

    Raises:
        ConfigError: if there is no such model, or its head is not supported.
    """
    try:
        # Lightning configures models in the context of the GPU, where transformers would ask for accelerate.
        with torch.device("cpu"):
            config = policy_config(path)
            model = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)
            whole = _check(model)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy {path!r}, which does not load: {error}",
            "a directory or hub id of a Hugging Face causal LM",
            change="--policy",
        ) from error
    if whole:
        rank_zero_info(f"{path}: the prompt of a group is computed for each of its rollouts: {whole}")
    return trainable(model, gradient_checkpointing)


def _check(model: Any) -> str:
    """Check the head, and whether rows can be packed: why not, or "" if they can."""
    check_head(model)
    refused = enable_packing(model)
    if not refused and not packs_exactly(model):
        disable_packing(model)
        refused = "its layers do not keep packed rows apart"
    return refused


def trainable(model: Any, gradient_checkpointing: bool) -> Any:
    """The model, ready to be trained."""
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()
