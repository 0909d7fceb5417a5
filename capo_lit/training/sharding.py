"""FSDP2: a policy that lies in shards on all data-parallel processes, its loading, its scoring and its export.

Every function here is called by all processes together: whatever gathers a weight waits for all of them.
"""

from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from transformers import AutoModelForCausalLM

from capo_lit.core.errors import BatchError, CapoError, ConfigError
from capo_lit.core.microbatches import cut_microbatches
from capo_lit.training.loading import load_policy, policy_config, trainable
from capo_lit.training.logprobs import SCORING, logprobs_of
from capo_lit.training.packing import enable_packing, packing_enabled

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def sharding_mesh(strategy: Strategy | None) -> DeviceMesh | None:
    """The processes that a policy is sharded over; None where each has a whole one.

    Raises:
        ConfigError: if the strategy would split single matrices as well.
    """
    if not isinstance(strategy, ModelParallelStrategy):
        return None
    mesh = strategy.device_mesh
    split = mesh["tensor_parallel"].size()
    if split > 1:
        raise ConfigError(
            f"a ModelParallelStrategy of tensor_parallel_size {split} over {mesh.size()} processes",
            f"tensor_parallel_size 1 and data_parallel_size {mesh.size()}: weights are sharded, matrices are not split",
            change=f"--trainer.strategy.data_parallel_size {mesh.size()} --trainer.strategy.tensor_parallel_size 1",
        )
    return mesh["data_parallel"]


def load_sharded(
    path: str, mesh: DeviceMesh, bf16: bool, gradient_checkpointing: bool = False, whole: Any = None
) -> Any:
    """Load a policy of which each process holds its shards alone; only the first reads the files.

    Args:
        path: directory or hub id of a Hugging Face causal LM.
        mesh: of one dimension.
        bf16: gather weights and compute in bfloat16; shards, gradients and their sums are fp32 all the same.
        gradient_checkpointing: recompute activations in the backward pass.
        whole: the policy, where it is loaded already; the first process's counts, and is read no more.

    Raises:
        ConfigError: on every process, if the model does not load.
    """
    sent: list[Any] = [None, None, False]  # why it does not load; its buffers, and whether it packs rows
    if dist.get_rank() == 0:
        try:
            whole = whole or load_policy(path)
            sent = [None, _buffers(whole), packing_enabled(whole)]
        except CapoError as error:
            sent = [error, None, False]
    dist.broadcast_object_list(sent, src=0)
    failure, buffers, packs = sent
    if failure is not None:
        raise failure
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(policy_config(path), dtype=torch.float32)
    if packs:
        enable_packing(model)
    model = _sharded(trainable(model, gradient_checkpointing), mesh, bf16)
    model.to_empty(device=mesh.device_type if mesh.device_type == "cpu" else torch.cuda.current_device())
    first = dist.get_rank() == 0
    state = whole.state_dict() if first else {}
    set_model_state_dict(
        model, state, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=True)
    )
    # Rotary frequencies are in no state dict; memory that was never written would stand for them.
    for name, buffer in _buffers(model).items():
        buffer.copy_(buffers[name])
    if first:
        model.generation_config = whole.generation_config
    return model


def _buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_buffers(remove_duplicate=False))


def _sharded(model: Any, mesh: DeviceMesh, bf16: bool) -> Any:
    precision = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    options: dict[str, Any] = {"mesh": mesh, **({"mp_policy": precision} if precision else {})}
    for block in [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]:
        fully_shard(block, **options)
    fully_shard(model, **options)
    # Scoring goes by the backbone and the head, and not by the model's forward, which would gather the root's weights.
    setattr(model, SCORING, MethodType(logprobs_of, model))
    register_fsdp_forward_method(model, SCORING)
    return model


def is_sharded(model: Any) -> bool:
    """Whether `load_sharded` made it."""
    return isinstance(model, FSDPModule)


def gathered_state(model: Any) -> dict[str, torch.Tensor]:
    """All weights, whole and on the CPU, on the first process; the others get nothing. Tied ones stand there once."""
    once = {name for name, _ in model.named_parameters()} | set(_buffers(model))
    state: dict[str, Any] = get_model_state_dict(model, options=_FULL)
    return {name: tensor for name, tensor in state.items() if name in once}


def even_plan(plan: list[list[int]], strategy: Strategy) -> list[list[int]]:
    """Micro-batches as many as the process with the most has: each gathers weights, and so waits for all others.

    Args:
        plan: this process's micro-batches.
        strategy: that the processes talk by.

    Raises:
        BatchError: on every process, if one has fewer rows than another has micro-batches.
    """
    rows = sum(map(len, plan))
    counts = torch.tensor([len(plan), -rows], dtype=torch.float64, device=strategy.root_device)
    most, fewest = (int(value) for value in strategy.reduce(counts, reduce_op="max").tolist())
    if most > -fewest:
        raise BatchError(
            f"a process with {-fewest} rows while another has {most} micro-batches",
            "as many rows on every process, as the DataModules of capo_lit deal them",
            "sharded training",
            "--model.update.tokens_per_microbatch (more), or the DataModule",
        )
    return cut_microbatches(plan, most)
