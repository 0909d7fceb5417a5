"""From a parsed config of `capo fit` to the memory that its run will need."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from capo_lit.core.errors import ConfigError
from capo_lit.engines.adapters import SLOTS, slot_rank
from capo_lit.training.memory import GIB, EngineMemory, RunMemory
from capo_lit.training.model_shape import model_shape

# Of the GPU that is planned for on a machine without one: an A100 or H100.
ASSUMED_GPU_GIB = 80.0
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "auto": 2}
_BF16 = ("bf16-mixed", "bf16-true", "bf16", "16-mixed")
_IN_PROCESS = ("VLLMEngine", "HFEngine")
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Hardware:
    """What a run is planned for.

    Args:
        gpu: the trainer's accelerator is one.
        processes: in all, each with a GPU of its own or a share of this machine's memory.
        capacity: bytes for each of them.
        source: where that number is from.
    """

    gpu: bool
    processes: int
    capacity: float
    source: str


def hardware(config: Mapping[str, Any], gpu_gib: float | None = None) -> Hardware:
    """The machine that a config names.

    Args:
        config: of `capo fit`.
        gpu_gib: memory of one GPU, GiB; by default that of this machine's first, or 80 where there is none.
    """
    trainer = config["trainer"]
    wanted = trainer.get("accelerator") or "auto"
    gpu = wanted in ("gpu", "cuda") or gpu_gib is not None or (wanted == "auto" and torch.cuda.is_available())
    local = _devices(trainer.get("devices"), gpu)
    processes = local * int(trainer.get("num_nodes") or 1)
    if not gpu:
        return Hardware(False, processes, _host_memory() / local, "this machine's memory")
    if gpu_gib is not None:
        return Hardware(True, processes, gpu_gib * GIB, "--gpu_gib")
    if torch.cuda.is_available():
        return Hardware(True, processes, torch.cuda.get_device_properties(0).total_memory, "this machine's GPU")
    return Hardware(True, processes, ASSUMED_GPU_GIB * GIB, "assumed, since there is no GPU here; --gpu_gib sets it")


def run_memory(config: Mapping[str, Any], machine: Hardware) -> RunMemory | None:
    """The settings of a config that decide its memory.

    Args:
        config: of `capo fit`, parsed.
        machine: that it is to run on.

    Returns:
        They; None for a DataModule or LightningModule of the user's own, whose step this does not know.

    Raises:
        ConfigError: if the shape of a model cannot be read.
    """
    model, data = (config[name]["init_args"] for name in ("model", "data"))
    if "update" not in model or not {"max_prompt_tokens", "max_tokens"} & data.keys():
        return None
    trainer, update = config["trainer"], model["update"]
    rows, prompt, response = _step(data, config["rollout"])
    strategy, sharded = _strategy(trainer.get("strategy"))
    half = str(trainer.get("precision")) in _BF16
    policy, rank = model_shape(config["policy"]), model.get("lora_rank") or 0
    return RunMemory(
        policy=policy,
        rows=math.ceil(rows / machine.processes),
        row_tokens=prompt + response,
        response_tokens=response,
        budget=update["tokens_per_microbatch"],
        checkpointing=update["gradient_checkpointing"],
        compute_bytes=2 if half else 4,
        capacity=machine.capacity,
        gpu=machine.gpu,
        stream_bytes=2 if half and sharded else 4,
        shards=int(strategy.get("data_parallel_size") or machine.processes) if sharded else 1,
        gradient_copy=machine.processes > 1 and not sharded and not strategy.get("gradient_as_bucket_view"),
        reference=bool((model.get("loss") or {}).get("kl_coef")),
        adapter=policy.adapter(rank),
        weight_bytes=2 if half and rank else 4,
        engines=tuple(_engines(config, rank)),
    )


def _step(data: Mapping[str, Any], rollout: Mapping[str, Any]) -> tuple[int, int, int]:
    """Sequences of a step over all processes, and the longest prompt and response, tokens."""
    if "max_prompt_tokens" in data:
        rows = data["prompts_per_step"] * rollout["group_size"]
        return rows, data["max_prompt_tokens"], rollout["sampling"]["max_tokens"]
    return data["prompts_per_step"], 0, data["max_tokens"]  # demonstrations, whose limit is that of both together


def _engines(config: Mapping[str, Any], rank: int) -> Iterator[EngineMemory]:
    """Those that run in the trainer's process; vLLM's first can sleep, and no other."""
    rollouts = config["rollout"].get("engine") or {}
    holds = rank > 0 and slot_rank(rank) > 0 and str(rollouts.get("class_path")).endswith("VLLMEngine")
    for name, path, block in _blocks(rollouts, "rollout.engine", config["policy"], False):
        own = _engine(name, path, block, sleeps=True)
        yield replace(own, adapter=SLOTS * own.shape.adapter(slot_rank(rank)) if holds else 0)
    for holder in ("rollout.outcomes", "critique.judge", "critique.eval_judge"):
        room, _, part = holder.partition(".")
        judge = config[room].get(part) or {}
        engine = (judge.get("init_args") or {}).get("engine")
        for name, path, block in _blocks(engine, f"{holder}.init_args.engine", config["policy"], holds):
            yield _engine(name, path, block, sleeps=False)


def _blocks(engine: Any, name: str, policy: str, holds: bool) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """An engine's name, model and settings; for a judge that is the initial policy, those of its second engine.

    Such a judge has none if the rollouts' engine holds the policy's adapters, and no other is asked for.
    """
    if not engine:
        return
    kind, arguments = engine["class_path"].rpartition(".")[2], engine.get("init_args") or {}
    if kind in _IN_PROCESS:
        yield name, str(arguments.get("model") or policy), arguments
    elif kind == "PolicyEngine" and arguments.get("weights") == "initial":
        inner = arguments.get("engine")
        if inner or not holds:
            yield f"{name}.init_args.engine", policy, (inner or {}).get("init_args") or {}


def _engine(name: str, path: str, block: Mapping[str, Any], sleeps: bool) -> EngineMemory:
    return EngineMemory(
        name=name,
        shape=model_shape(path, f"--{name}.init_args.model"),
        dtype_bytes=_DTYPE_BYTES.get(str(block.get("dtype", "auto")), 2),
        context=int(block.get("max_model_len") or 4096),
        gpu_share=float(block.get("gpu_memory_utilization") or 0.4),
        kv_gib=float(block.get("kv_cache_gib") or 0.5),
        sleeps=sleeps,
    )


def _strategy(value: Any) -> tuple[Mapping[str, Any], bool]:
    """A strategy's arguments, and whether it splits the weights."""
    if isinstance(value, Mapping):
        return value.get("init_args") or {}, "ModelParallel" in value["class_path"]
    return {}, "fsdp" in str(value) or "model_parallel" in str(value).lower()


def _devices(value: Any, gpu: bool) -> int:
    """Processes on one machine, from Lightning's setting: a number, a list of devices, -1 or auto for all."""
    if isinstance(value, list):
        return len(value)
    text = str(value or "auto")
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    if text in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if gpu else 1
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"trainer.devices {value!r}", "a number of processes >= 1", change="--trainer.devices")
    return int(text)


def _host_memory() -> float:
    """Bytes that this machine, or the container that this process is in, may use."""
    total = float(psutil.virtual_memory().total)
    limit = _CGROUP.read_text().strip() if _CGROUP.exists() else "max"
    return min(total, float(limit)) if limit.isdigit() else total
