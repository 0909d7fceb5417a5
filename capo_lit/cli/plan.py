"""`capo plan`: the memory that a run will need, part by part, before anything is loaded."""

from argparse import ArgumentError, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capo_lit.cli.command import ended
from capo_lit.cli.commands import composed, split_words
from capo_lit.cli.memory import Hardware, hardware, run_memory
from capo_lit.cli.parser import brief
from capo_lit.cli.show import show_table
from capo_lit.cli.trainer import CapoCLI, build
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.records.runs import read_run
from capo_lit.training.memory import GIB, RunMemory, memory_parts, totals
from capo_lit.training.memory_advice import check_memory, troubles
from capo_lit.training.split import Split, measured_rates, splits, step_seconds

_USAGE = "capo plan [--gpu_gib GIB] [--split RUN] [GROUP=NAME ...] [KEY=VALUE ...] [OPTIONS of capo fit]"
_ABOUT = """
The memory of each process of a run: policy, gradients, optimizer, activations, and engines with their caches, while it
samples and while it trains. Nothing is loaded but the models' config.json. The exit status is 1 for a run that cannot
fit, and the settings that would make it fit are named. `capo fit` refuses such a run too.

  capo plan experiment=capo scale=paper llm=qwen2.5_7b hardware=gpu8_fsdp --gpu_gib 80
"""
_MOST_SHOWN = 8
_PLACES = ("accelerator", "devices", "num_nodes")  # settings of the Trainer that say how many processes there are


def main(argv: Sequence[str]) -> int:
    """Run `capo plan`; returns the exit status."""
    parser = ArgumentParser(
        "capo plan", _USAGE, _ABOUT, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--gpu_gib", type=float, help="memory of one GPU, GiB; that of this machine's first, else 80")
    parser.add_argument(
        "--split", type=Path, metavar="RUN", help="also seconds a step by how GPUs are shared out, from that run's log"
    )
    own, words = parser.parse_known_args(list(argv))
    return ended("capo plan", lambda: _plan(words, own.gpu_gib, own.split))


class ParseOnly(CapoCLI):
    """Parses, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""
        self.trainer = None  # type: ignore[assignment]

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def _plan(words: list[str], gpu_gib: float | None, measured: Path | None) -> None:
    if gpu_gib is not None and not 0 < gpu_gib < float("inf"):
        raise ConfigError(f"--gpu_gib {gpu_gib}", "GiB of one GPU, a number > 0", change="--gpu_gib")
    chosen, flags = split_words(words)
    config = composed(chosen)
    try:
        parsed: dict[str, Any] = build(["fit", *config, *flags], cli=ParseOnly).config["fit"].as_dict()
    except ArgumentError as error:
        raise ConfigError(brief(error), "settings of capo fit", " ".join(words)) from error
    machine = hardware(parsed, gpu_gib)
    run = run_memory(parsed, machine)
    if run is None:
        raise ConfigError(
            f"{parsed['model']['class_path']} on {parsed['data']['class_path']}, whose step is not known here",
            "CapoModule on PromptDataModule, SFTModule on SFTDataModule, or what has their settings",
        )
    _show(parsed["policy"], machine, run)
    if measured is not None:
        _show_splits(measured, machine, run)
    check_memory(run)


def _show(policy: str, machine: Hardware, run: RunMemory) -> None:
    parts, shape = memory_parts(run), run.policy
    title = f"{policy}: {shape.parameters / 1e9:.3g} billion parameters, {shape.layers} layers of width {shape.hidden}"
    rows = [(name, *(f"{part / GIB:.2f}" if part else "-" for part in peaks)) for name, peaks in parts.items()]
    rows.append(("in all", *(f"{total / GIB:.2f}" for total in totals(parts))))
    device = "GPU" if machine.gpu else "process"
    limit = f"{machine.processes} x {machine.capacity / GIB:.1f} GiB ({machine.source})"
    show_table(title, (f"GiB of each {device}", "sampling", "training"), rows, limit)


def _show_splits(measured: Path, machine: Hardware, run: RunMemory) -> None:
    """The fastest ways to share out the config's GPUs, with what a step takes and whether the policy fits."""
    found = read_run(measured)
    if "data.init_args.prompts_per_step" not in found.config:
        raise DataError("no config of CapoModule", "the folder of a run of `capo fit`", str(measured), "--split")
    alone = hardware({"trainer": {name: found.config.get(f"trainer.{name}") for name in _PLACES}})
    rollouts = found.config["data.init_args.prompts_per_step"] * found.config["rollout.group_size"]
    rates = measured_rates(found.curves, alone.processes, rollouts, alone.gpu, measured)
    judge = str(found.config.get("critique.judge.init_args.engine.class_path", ""))
    beside = judge.endswith("HTTPEngine")

    def seconds(split: Split) -> float:
        return step_seconds(rates, split, run.rows * machine.processes, beside)

    ordered = sorted(splits(machine.processes), key=seconds)[:_MOST_SHOWN]
    rows = [(_said(split), f"{seconds(split):.1f}", _fits(split, run, machine)) for split in ordered]
    title = f"seconds a step on {machine.processes}, from {measured} ({rates.processes} at {rates.rollouts:g} rollouts)"
    show_table(title, ("who does what", "s a step", "memory"), rows)


def _said(split: Split) -> str:
    if not split.servers:
        return f"{split.trainers} train and sample in turn"
    return f"{split.trainers} train, {split.servers} sample{' ahead' if split.ahead else ''}"


def _fits(split: Split, run: RunMemory, machine: Hardware) -> str:
    rows = -(-run.rows * machine.processes // split.trainers)
    engines = () if split.servers else run.engines
    shards = split.trainers if run.shards > 1 else 1
    return "too little" if troubles(replace(run, rows=rows, engines=engines, shards=shards)) else "fits"
