"""Whether a run fits into memory, and which settings would make it fit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from capo_lit.core.errors import ConfigError
from capo_lit.training.memory import GIB, EngineMemory, RunMemory, engine_room, memory_parts, totals

_MOST_SHARDS = 64
_LEAST_SHARE = 0.1  # of a GPU for an engine
_ADVICES = 3
_RANK = 16  # of adapters


@dataclass(frozen=True)
class Advice:
    """A change of settings, and the run with it."""

    change: str
    run: RunMemory


def troubles(run: RunMemory) -> list[str]:
    """Why a run cannot fit; empty if it does."""
    sampling, training = totals(memory_parts(run))
    found = []
    if training > run.capacity:
        found.append(f"{training / GIB:.1f} GiB while the policy trains")
    if sampling > run.capacity:
        found.append(f"{sampling / GIB:.1f} GiB while the engines sample")
    for engine in run.engines:
        room, least = engine_room(engine, run.capacity), engine.kv_token * engine.context
        if run.gpu and room < least:
            left = f"leaves {room / GIB:.1f} GiB for its cache ({least / GIB:.1f} needed)"
            if room < 0:
                left = f"does not hold its weights of {engine.weights / GIB:.1f} GiB"
            found.append(f"{engine.name}, whose share of {engine.gpu_share:g} {left}")
    return found


def check_memory(run: RunMemory) -> None:
    """Refuse a run that cannot fit.

    Raises:
        ConfigError: says how much it needs, and which settings would fit.
    """
    found = troubles(run)
    if not found:
        return
    device = "GPU" if run.gpu else "process"
    fitting = [advice.change for advice in advices(run)]
    raise ConfigError(
        f"a run that needs {'; '.join(found)}",
        f"at most {run.capacity / GIB:.1f} GiB for each {device}",
        "memory (`capo plan` with the same words lists the parts)",
        "; or ".join(fitting) or "--policy (no setting here makes this one fit)",
    )


def advices(run: RunMemory) -> list[Advice]:
    """Changes of settings with which the run fits, the mildest first; at most three."""
    fitting: list[Advice] = []
    for advice in _changes(run):
        if not troubles(advice.run):
            fitting.append(advice)
        if len(fitting) == _ADVICES:
            break
    return fitting


def _changes(run: RunMemory) -> Iterator[Advice]:
    shared = _with_share(run)
    whole = _smaller_update(run)
    yield from whole
    if shared is not None:
        yield shared
        for advice in _smaller_update(shared.run):
            yield Advice(f"{shared.change} and {advice.change}", advice.run)
    if not run.adapter:
        yield _adapted(run)
    if run.gpu:
        for base in (Advice("", run), *whole[-1:]):  # as it is, and at its leanest
            yield from _split(base)


def _adapted(run: RunMemory) -> Advice:
    """The run with adapters alone trained."""
    words = [f"--model.lora_rank {_RANK}"]
    run = replace(run, adapter=run.policy.adapter(_RANK), weight_bytes=run.compute_bytes)
    shared = _with_share(run) if troubles(run) else None
    if shared is not None:
        run, words = shared.run, [*words, shared.change]
    return Advice(" and ".join(words), run)


def _split(base: Advice) -> Iterator[Advice]:
    """The run over the fewest GPUs that hold it, each with a share of the weights."""
    for shards in (base.run.shards * 2**power for power in range(1, _MOST_SHARDS.bit_length())):
        run = replace(base.run, shards=shards, gradient_copy=False)
        words = [f"hardware=gpu8_fsdp over {shards} GPUs", base.change]
        shared = _with_share(run) if troubles(run) else None
        if shared is not None:
            run, words = shared.run, [*words, shared.change]
        if not troubles(run):
            yield Advice(" and ".join(filter(None, words)), run)
            return


def _smaller_update(run: RunMemory) -> list[Advice]:
    """Smaller micro-batches, checkpointing, and both."""
    changes = _smaller_microbatches(run)
    if not run.checkpointing:
        kept = replace(run, checkpointing=True)
        word = "--model.update.gradient_checkpointing true"
        changes.append(Advice(word, kept))
        changes += [Advice(f"{word} and {advice.change}", advice.run) for advice in _smaller_microbatches(kept)]
    return changes


def _smaller_microbatches(run: RunMemory) -> list[Advice]:
    changes, budget = [], run.budget // 2
    while run.microbatch_rows > 1 and budget >= run.row_tokens:
        changes.append(Advice(f"--model.update.tokens_per_microbatch {budget}", replace(run, budget=budget)))
        budget //= 2
    return changes


def _with_share(run: RunMemory) -> Advice | None:
    """The engines' share of the GPU cut to what the trainer leaves while they sample, or raised to what they need."""
    if not run.gpu or not run.engines:
        return None
    held = totals(memory_parts(replace(run, engines=())))[0]
    share = round((1 - held / run.capacity) / len(run.engines) - 0.005, 2)
    if share < _LEAST_SHARE:
        return None
    engines: tuple[EngineMemory, ...] = tuple(replace(engine, gpu_share=share) for engine in run.engines)
    words = [f"--{engine.name}.init_args.gpu_memory_utilization {share:g}" for engine in engines]
    return Advice(" and ".join(words), replace(run, engines=engines))
