"""What a run will hold in memory, before anything is loaded: while it samples, and while it trains.

Arithmetic on shapes and settings. The bytes of activations are those of this project's own forward pass, measured on
Llama and Qwen2 layers; docs/howto/scale.md says how near they come.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capo_lit.core.logprobs import default_chunk
from capo_lit.training.model_shape import ModelShape

GIB = 2**30
# AdamW keeps two float32 numbers a parameter beside the weight and its gradient.
_FP32 = 4
_MOMENTS = 2 * _FP32
# Copies of a chunk's float32 logits that live at one time: they become their own gradient, beside what they were, or
# will be, in the dtype of the product.
_LOGIT_COPIES = 2
# Bytes a token keeps in one layer for the backward pass, by bytes of the compute type: so many for each unit of the
# feed-forward part (gate, up, activation, product), and of the residual stream (norms, attention's inputs and output).
_PER_INTERMEDIATE = {2: 8, 4: 16}
_PER_HIDDEN = {2: 32, 4: 42}
# What a process holds before any model: Python and its libraries on a CPU, the CUDA context and NCCL on a GPU.
_BASE_CPU, _BASE_GPU = 0.6, 1.2
# What vLLM holds beside weights and cache: its modules and buffers on a CPU, activations and graphs on a GPU.
_ENGINE_CPU, _ENGINE_GPU = 0.25, 2.0


@dataclass(frozen=True)
class EngineMemory:
    """An engine in the trainer's process.

    Args:
        name: the setting that holds it, such as rollout.engine.
        shape: of its model.
        dtype_bytes: of a weight.
        context: longest prompt and response together, tokens.
        gpu_share: of the GPU's memory that it takes for everything, in (0, 1]; unused on a CPU.
        kv_gib: of its key-value cache on a CPU, GiB; unused on a GPU.
        sleeps: it holds nothing on the GPU while the policy trains.
        adapter: parameters of its slots for adapters; 0 without.
    """

    name: str
    shape: ModelShape
    dtype_bytes: int
    context: int
    gpu_share: float = 0.0
    kv_gib: float = 0.0
    sleeps: bool = True
    adapter: int = 0

    @property
    def slots(self) -> float:
        """Bytes of its slots for adapters."""
        return float(self.adapter * self.dtype_bytes)

    @property
    def weights(self) -> float:
        """Bytes of its weights."""
        return float(self.shape.parameters * self.dtype_bytes)

    @property
    def kv_token(self) -> int:
        """Bytes of key-value cache for one token."""
        return 2 * self.shape.layers * self.shape.kv_width * self.dtype_bytes


@dataclass(frozen=True)
class RunMemory:
    """The settings of a run that decide its memory.

    Args:
        policy: the shape of the policy.
        rows: sequences of one step on one process.
        row_tokens: the longest of them, prompt and response together.
        response_tokens: the part of it that is trained.
        budget: padded tokens of a micro-batch.
        checkpointing: activations are recomputed in the backward pass.
        compute_bytes: of the type that layers compute in: 2 for bf16, 4 for float32.
        stream_bytes: of the residual stream between layers: 4 in float32 and under autocast, 2 where weights are cast.
        capacity: of one GPU or, on CPUs, of the machine's memory that one process may use; bytes.
        gpu: the trainer's accelerator is one.
        shards: processes over which weights, gradients and moments are split (FSDP2); 1 keeps them whole.
        gradient_copy: DDP keeps its buckets beside the gradients, and not as a view of them.
        reference: a frozen copy of the policy stands beside it (kl_coef > 0).
        adapter: parameters of the adapters that alone are trained (LoRA); 0 trains the policy itself.
        weight_bytes: of one weight of the policy: 4, or 2 where it is frozen under bf16.
        engines: those that run in this process.
    """

    policy: ModelShape
    rows: int
    row_tokens: int
    response_tokens: int
    budget: int
    checkpointing: bool
    compute_bytes: int
    capacity: float
    gpu: bool
    stream_bytes: int = _FP32
    shards: int = 1
    gradient_copy: bool = False
    reference: bool = False
    adapter: int = 0
    weight_bytes: int = _FP32
    engines: Sequence[EngineMemory] = ()

    @property
    def microbatch_rows(self) -> int:
        """Sequences of the largest micro-batch."""
        return max(1, min(self.rows, self.budget // self.row_tokens))


Parts = dict[str, tuple[float, float]]
"""Bytes of each part: (while it samples, while it trains)."""


def memory_parts(run: RunMemory) -> Parts:
    """What one process holds at its peaks.

    Returns:
        Bytes of each part, while the engines sample and while the policy trains.
    """
    trained = run.adapter or run.policy.parameters
    base = (_BASE_GPU if run.gpu else _BASE_CPU) * GIB
    weights, moments = run.weight_bytes * run.policy.parameters / run.shards, _MOMENTS * trained / run.shards
    adapter = float(_FP32 * run.adapter)
    parts = {
        "libraries and device context": (base, base),
        f"policy's weights, {'bfloat16' if run.weight_bytes == 2 else 'float32'}": (weights, weights),
        "adapters, float32": (adapter, adapter),
        "AdamW's moments": (moments, moments),
    }
    parts |= {name: (0.0, bytes_) for name, bytes_ in _training(run, trained).items()}
    if run.reference and not run.adapter:  # the frozen weights are the reference
        parts["frozen reference, float32"] = (weights, weights)
    for engine in run.engines:
        parts |= _engine_parts(engine, run)
    return {name: peaks for name, peaks in parts.items() if max(peaks) > 0}


def totals(parts: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """Bytes of all parts: (while it samples, while it trains)."""
    return sum(part[0] for part in parts.values()), sum(part[1] for part in parts.values())


def _training(run: RunMemory, trained: int) -> dict[str, float]:
    """What only training holds, at the higher of its two peaks: the backward pass, or the optimizer's step."""
    shape = run.policy
    gradients = _FP32 * trained / run.shards
    # One micro-batch's activations are gone when its gradients are whole; with several, both stand.
    during = gradients if run.rows > run.microbatch_rows else 0.0
    copy = {"DDP's buckets": gradients} if run.gradient_copy else {}
    backward = {"gradients": during, **copy, **_activations(run)}
    if run.shards > 1:  # FSDP2 gathers the embedding and the head for the whole pass, and one layer at a time
        whole = shape.head * (1 if shape.tied else 2) + shape.layer
        backward["gathered weights"] = float(run.stream_bytes * whole)
    step = {"gradients": gradients, **copy}
    if not run.gpu:  # on GPUs it is fused, and needs nothing
        step["optimizer's step"] = float(_FP32 * max(shape.head, 1))
    return backward if sum(backward.values()) > sum(step.values()) else step


def _activations(run: RunMemory) -> dict[str, float]:
    shape, bytes_, rows = run.policy, run.compute_bytes, run.microbatch_rows
    tokens = rows * run.row_tokens
    layer = tokens * (_PER_INTERMEDIATE[bytes_] * shape.intermediate + _PER_HIDDEN[bytes_] * shape.hidden)
    chunk = min(default_chunk(shape.vocabulary), rows * run.response_tokens)
    logits = {"logits": float(_LOGIT_COPIES * _FP32 * chunk * shape.vocabulary)}
    if not run.checkpointing:
        return {"activations": float(shape.layers * layer)} | logits
    kept = float(shape.layers * tokens * shape.hidden * run.stream_bytes)
    return {"activations: checkpoints": kept, "activations: the layer that is recomputed": float(layer)} | logits


def _engine_parts(engine: EngineMemory, run: RunMemory) -> Parts:
    weights, slots = engine.weights, engine.slots
    if run.gpu:
        rest = engine.gpu_share * run.capacity - weights - slots
    else:  # the CPU's kernels keep a packed copy of a head that is tied to the embedding
        weights += engine.shape.head * engine.dtype_bytes if engine.shape.tied else 0
        rest = (engine.kv_gib + _ENGINE_CPU) * GIB
    stays = not (run.gpu and engine.sleeps)
    held = {"weights": weights, "slots for adapters": slots, "key-value cache and buffers": rest}
    return {f"{engine.name}: {name}": (bytes_, bytes_ if stays else 0.0) for name, bytes_ in held.items()}


def engine_room(engine: EngineMemory, capacity: float) -> float:
    """Bytes that an engine's share of a GPU leaves for its key-value cache; negative if its weights do not fit."""
    return engine.gpu_share * capacity - engine.weights - engine.slots - _ENGINE_GPU * GIB
