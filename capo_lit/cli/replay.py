"""`capo replay`: what other votes, weights and estimators would have made of a run's critiques."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pyarrow as pa

from capo_lit.batch.credit import CreditConfig
from capo_lit.core.credit import Estimator
from capo_lit.core.errors import CapoError, DataError
from capo_lit.core.votes import VoteRule
from capo_lit.records.replay import COLUMNS, Replay, mean, most_critiques, replay
from capo_lit.records.schema import read_records, write_atomic


def main(argv: list[str]) -> int:
    """Run `capo replay`.

    Args:
        argv: the arguments after `replay`.

    Returns:
        The exit status: 0, or 1 if the records or settings cannot be used.
    """
    args = _parser().parse_args(argv)
    try:
        if args.output is not None and args.output.exists():
            raise DataError("a file that exists", "a new file", str(args.output), "--output")
        table = read_records(args.records, COLUMNS)
        k = most_critiques(table) if args.k is None else args.k
        rules = args.vote or [rule for rule in get_args(VoteRule) if rule != "greedy" or k == 1]
        credit = CreditConfig(args.w_whole, args.w_process, args.estimator)
        replays = [replay(table, rule, k, credit) for rule in rules]
        if args.output is not None:
            write_atomic(pa.concat_tables([one.table for one in replays]), args.output)
    except CapoError as error:
        sys.stderr.write(f"capo replay: {error}\n")
        return 1
    _show(replays, table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capo replay",
        description="Vote recorded critiques anew, under other rules, with fewer critiques, other weights or another "
        "estimator, without asking a judge, and show what would have changed.",
    )
    parser.add_argument("records", type=Path, nargs="+", metavar="RECORDS", help="record directories or files")
    rules = get_args(VoteRule)
    parser.add_argument("--vote", choices=rules, nargs="+", metavar="RULE", help=f"rules: {', '.join(rules)} (all)")
    parser.add_argument("--k", type=int, help="critiques that vote, from the first (default: all)")
    parser.add_argument("--w_whole", type=float, default=2.0, help="reward of a right answer (default: 2)")
    parser.add_argument("--w_process", type=float, default=1.0, help="what a wrong step's tokens lose (default: 1)")
    parser.add_argument("--estimator", choices=get_args(Estimator), default="token_pooled", help="(token_pooled)")
    parser.add_argument("--output", type=Path, metavar="OUT.parquet", help="write one row per rollout and rule")
    return parser


def _show(replays: Sequence[Replay], table: pa.Table) -> None:
    from rich.console import Console
    from rich.table import Table

    rows = len(table)
    shown = Table(title=f"{rows} recorded rollouts, k {replays[0].k}")
    columns = (
        "vote",
        "wrong\nsteps",
        "agree-\nment",
        "verdicts\nchanged",
        "unde-\ncided",
        "token\nreward",
        "|advantage\nchange|",
    )
    for name in columns:
        shown.add_column(name, justify="left" if name == "vote" else "right")
    recorded = [error for errors in table["step_error"].to_pylist() for error in errors]
    rewards = [
        reward
        for outcome, row in zip(table["outcome"].to_pylist(), table["token_rewards"].to_pylist(), strict=True)
        if outcome is not None
        for reward in row or ()
    ]
    agreement = mean(table["agreement"].to_pylist())
    shown.add_row("as recorded", f"{mean(recorded):.1%}", f"{agreement:.3f}", "", "", f"{mean(rewards):.4f}", "")
    for one in replays:
        figures = f"{one.wrong_step_frac:.1%}", f"{one.agreement:.3f}", f"{one.changed}", f"{one.undecided}"
        shown.add_row(one.rule, *figures, f"{one.token_reward:.4f}", f"{one.advantage_change:.4f}")
    Console().print(shown)
