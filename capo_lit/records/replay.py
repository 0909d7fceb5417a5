"""Other votes, weights and estimators over recorded critiques, without a judge."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby
from math import nan
from typing import Any

import pyarrow as pa

from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.facts import Completion, Critique, CritiquedRollout, Prompt, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.core.votes import VoteRule, settled
from capo_lit.genprm.base import critiqued
from capo_lit.records.schema import SCHEMA, settings_of

_IDENTITY = ("run", "step", "rank", "row", "group", "sample", "uid")
COLUMNS = (
    *_IDENTITY,
    *("response_ids", "pieces", "special", "finish_reason", "outcome", "spans", "step_error", "agreement"),
    *("critiques", "token_rewards", "advantages"),
)
_FLOATS = pa.list_(pa.float32())
_SCHEMA = pa.schema(
    {
        **{name: SCHEMA.field(name).type for name in _IDENTITY},
        "vote": pa.string(),
        "k": pa.int32(),
        "step_error": _FLOATS,
        "agreement": pa.float32(),
        "valid": pa.int32(),
        "decided": pa.bool_(),
        "changed": pa.bool_(),
        "token_rewards": _FLOATS,
        "advantages": _FLOATS,
        "advantage_change": _FLOATS,  # null: the record holds no advantages
    }
)


@dataclass(frozen=True, slots=True)
class Replay:
    """What another vote makes of recorded critiques.

    Attributes:
        rule: of the vote.
        k: critiques that vote, from the first.
        table: one row per rollout, in the order of the records.
        wrong_step_frac: step error, mean over all steps.
        agreement: of the votes, mean over rollouts.
        changed: rollouts whose step errors differ from the recorded ones.
        undecided: rollouts of which a critique is missing that could change the vote, because the run had called it
            off; they are voted by what there is.
        token_reward: mean over the tokens of rollouts with a known outcome.
        advantage_change: absolute change from the recorded advantage, mean over the same tokens; NaN without records
            of it.
    """

    rule: VoteRule
    k: int
    table: pa.Table
    wrong_step_frac: float
    agreement: float
    changed: int
    undecided: int
    token_reward: float
    advantage_change: float


def replay(
    table: pa.Table, rule: VoteRule, k: int | None = None, credit: CreditConfig | Mapping[str, Any] | None = None
) -> Replay:
    """Vote recorded critiques anew, and compute the credit that follows.

    Args:
        table: of `read_records`, with at least the columns COLUMNS, of rollouts that a judge was asked about.
        rule: how to vote.
        k: critiques that vote, from the first of each rollout; by default as many as any rollout has.
        credit: weights and estimator; by default, step by step, those of the records. A mapping says what to change of
            these. With the run's own rule and credit the recorded step errors, token rewards and advantages come out
            exactly.

    Returns:
        The new verdicts and credit, and what they differ in.

    Raises:
        ConfigError: if k is not between 1 and the number of recorded critiques, or greedy is given several.
        DataError: if a rollout was not judged.
    """
    most = most_critiques(table)
    count = most if k is None else k
    if not 1 <= count <= max(most, 1):
        raise ConfigError(f"k {count}", f"1 to {most}, as many critiques as a rollout has", "replay", "k")
    if rule == "greedy" and count > 1:
        raise ConfigError(f"vote greedy with k {count}", "k 1", "replay", "k, or vote")
    recorded = recorded_credit(table)
    rows = []
    for step in _steps(table):
        own = recorded.get((step[0]["run"], step[0]["step"]), CreditConfig())
        used = credit if isinstance(credit, CreditConfig) else replace(own, **(credit or {}))
        rows += _replay_step(step, rule, count, used)
    return _summary(rule, count, rows)


def recorded_credit(table: pa.Table) -> dict[tuple[str, int], CreditConfig]:
    """The credit that records were made with, by run and step; what they do not say is the paper's."""
    names = {field.name for field in fields(CreditConfig)}
    return {
        (one["run"], one["step"]): CreditConfig(
            **{name: value for name, value in one.items() if name in names and (name, value) != ("estimator", None)}
        )
        for one in settings_of(table)
    }


def most_critiques(table: pa.Table) -> int:
    """The largest number of critiques that a recorded rollout has: k, unless every vote was settled before.

    Raises:
        DataError: if a rollout was not judged.
    """
    counts = [None if critiques is None else len(critiques) for critiques in table["critiques"].to_pylist()]
    if None in counts:
        raise DataError(
            f"no critiques in row {counts.index(None)}", "records of a run with a judge", "replay", "records"
        )
    return max((count for count in counts if count is not None), default=0)


def _steps(table: pa.Table) -> Iterator[list[dict[str, Any]]]:
    """The rows of each batch: one step of one process."""
    for _, rows in groupby(table.select(COLUMNS).to_pylist(), key=lambda row: (row["run"], row["step"], row["rank"])):
        yield list(rows)


def _replay_step(rows: list[dict[str, Any]], rule: VoteRule, k: int, credit: CreditConfig) -> list[dict[str, Any]]:
    """The new rows of one batch: the credit of a group needs all its rollouts at once."""
    items = [_vote(row, rule, k) for row in rows]
    batch = StepBatch([item.rollout.prompt for item in items], rows[0]["step"])
    batch.set_rollouts(item.rollout for item in items)
    batch.set_verdicts(items)
    made = assign_credit(batch, credit)
    places = {rollout.row: place for place, rollout in enumerate(made.rollouts)}
    result = []
    for row, item in zip(rows, items, strict=True):
        place, length = places[item.rollout.row], len(row["response_ids"])
        result.append(
            {
                **{name: row[name] for name in _IDENTITY},
                "vote": rule,
                "k": k,
                "step_error": _float32(item.verdict.step_error),
                "agreement": item.verdict.agreement,
                "valid": item.verdict.valid,
                "decided": _decided(item, rule, k),
                "changed": _float32(item.verdict.step_error) != row["step_error"],
                "token_rewards": made.token_rewards[place, :length].tolist(),
                "advantages": (new := made.advantages[place, :length].tolist()),
                "advantage_change": _difference(new, row["advantages"]),
                "trained": row["outcome"] is not None,
            }
        )
    return result


def _vote(row: dict[str, Any], rule: VoteRule, k: int) -> CritiquedRollout:
    """A recorded rollout with another verdict; of its texts, only what credit needs."""
    pieces = tuple(row["pieces"])
    completion = Completion(
        request_id="",
        ids=tuple(row["response_ids"]),
        pieces=pieces,
        special=tuple(row["special"]),
        text="".join(pieces),
        logprobs=None,
        finish_reason=row["finish_reason"],
        prompt_tokens=0,
        version=None,
        seconds=0.0,
    )
    prompt = Prompt(row["uid"], "", (), "")
    spans = tuple((span["start"], span["end"]) for span in row["spans"])
    rollout = Rollout(row["row"], row["group"], row["sample"], prompt, completion, row["outcome"], spans=spans)
    critiques = [
        Critique(one["reply"], None if one["wrong"] is None else frozenset(one["wrong"]), one["cause"])
        for one in row["critiques"][:k]
    ]
    return critiqued(rollout, critiques, rule)


def _decided(item: CritiquedRollout, rule: VoteRule, k: int) -> bool:
    """Whether critiques that the run called off or never asked could not change the vote."""
    votes = [critique.wrong for critique in item.critiques if not critique.aborted]
    return settled(votes, k - len(votes), len(item.spans), rule)


def _difference(new: list[float], old: list[float] | None) -> list[float] | None:
    return None if old is None else [a - b for a, b in zip(new, old, strict=True)]


def _float32(values: Sequence[float]) -> list[float]:
    """As records hold them."""
    return list(pa.array(values, pa.float32()).to_pylist())


def _summary(rule: VoteRule, k: int, rows: list[dict[str, Any]]) -> Replay:
    trained = [row for row in rows if row["trained"]]
    changes = [abs(x) for row in trained if row["advantage_change"] is not None for x in row["advantage_change"]]
    return Replay(
        rule=rule,
        k=k,
        table=pa.Table.from_pylist(rows, schema=_SCHEMA),
        wrong_step_frac=mean([error for row in rows for error in row["step_error"]]),
        agreement=mean([row["agreement"] for row in rows]),
        changed=sum(row["changed"] for row in rows),
        undecided=sum(not row["decided"] for row in rows),
        token_reward=mean([reward for row in trained for reward in row["token_rewards"]]),
        advantage_change=mean(changes),
    )


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else nan
