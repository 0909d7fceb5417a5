"""`capo replay`: what other votes, weights and estimators would have made of a run's critiques."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import pyarrow as pa

from capo_lit.batch.credit import CreditConfig
from capo_lit.cli.command import command
from capo_lit.cli.show import show_table
from capo_lit.core.credit import Estimator
from capo_lit.core.errors import DataError
from capo_lit.core.votes import VoteRule
from capo_lit.records.replay import COLUMNS, Replay, mean, most_critiques
from capo_lit.records.replay import replay as replay_records
from capo_lit.records.schema import read_records, settings_of, write_atomic


def replay(
    records: Annotated[list[Path], {"metavar": "RECORDS"}],
    vote: Annotated[list[VoteRule] | None, {"metavar": "RULE"}] = None,
    k: int | None = None,
    w_whole: float | None = None,
    w_process: float | None = None,
    estimator: Estimator | None = None,
    output: Annotated[Path | None, {"metavar": "OUT.parquet"}] = None,
) -> None:
    """Vote recorded critiques anew, without asking a judge, and show what would have changed.

    Under other rules, with fewer critiques, other weights or another estimator. What is not given is as the records
    say; where they do not, as in the paper: 2, 1, token_pooled.

    Args:
        records: record directories or files
        vote: rules: intersection, majority, union, average, greedy (default: all)
        k: critiques that vote, from the first (default: all)
        w_whole: reward of a right answer (default: the run's)
        w_process: what a wrong step's tokens lose (default: the run's)
        estimator: of the advantages (default: the run's)
        output: write one row per rollout and rule
    """
    if output is not None and output.exists():
        raise DataError("a file that exists", "a new file", str(output), "--output")
    table = read_records(records, COLUMNS)
    k = most_critiques(table) if k is None else k
    rules = vote or [rule for rule in get_args(VoteRule) if rule != "greedy" or k == 1]
    given = {"w_whole": w_whole, "w_process": w_process, "estimator": estimator}
    changes = {name: value for name, value in given.items() if value is not None}
    replays = [replay_records(table, rule, k, changes) for rule in rules]
    if output is not None:
        write_atomic(pa.concat_tables([one.table for one in replays]), output)
    _show(replays, table, changes)


def _show(replays: Sequence[Replay], table: pa.Table, changes: Mapping[str, Any]) -> None:
    headings = ("vote", "wrong\nsteps", "agree-\nment", "verdicts\nchanged", "unde-\ncided", "token\nreward")
    recorded = [error for errors in table["step_error"].to_pylist() for error in errors]
    rewards = [
        reward
        for outcome, row in zip(table["outcome"].to_pylist(), table["token_rewards"].to_pylist(), strict=True)
        if outcome is not None
        for reward in row or ()
    ]
    agreement = mean(table["agreement"].to_pylist())
    rows = [("as recorded", f"{mean(recorded):.1%}", f"{agreement:.3f}", "", "", f"{mean(rewards):.4f}", "")]
    for one in replays:
        figures = f"{one.wrong_step_frac:.1%}", f"{one.agreement:.3f}", f"{one.changed}", f"{one.undecided}"
        rows.append((one.rule, *figures, f"{one.token_reward:.4f}", f"{one.advantage_change:.4f}"))
    title = f"{len(table)} recorded rollouts, k {replays[0].k}"
    show_table(title, (*headings, "|advantage\nchange|"), rows, _credit_words(table, changes))


def _credit_words(table: pa.Table, changes: Mapping[str, Any]) -> str:
    """What the replay's credit was computed with, and whose word that is."""
    names = ("w_whole", "w_process", "estimator")
    own = settings_of(table) or [asdict(CreditConfig())]
    # A value model's advantages have no estimator: their replay is the paper's.
    values = {name: sorted({str(changes.get(name, one[name])) for one in own} - {"None"}) for name in names}
    values["estimator"] = values["estimator"] or [CreditConfig.estimator]
    used = ", ".join(f"{name} {' or '.join(several)}" for name, several in values.items())
    if not settings_of(table):
        return f"{used}. The records do not say the run's: what was not given is the paper's."
    votes = sorted({f"{one['vote']} of {one['k']}" for one in own})
    return f"{used}. What was not given is the run's, which voted {' or '.join(votes)}."


main = command(replay)
