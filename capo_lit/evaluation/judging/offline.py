"""Judging solutions that are already written: critiques and verdicts of each, and the judge's scores over all."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, get_args

from capo_lit.batch.facts import ABORTED, Critique, CritiquedRollout
from capo_lit.core.errors import JudgeError
from capo_lit.core.votes import VoteRule, settled, tally
from capo_lit.evaluation.judging.scores import NO_WRONG_STEP, critique_agreement, first_wrong, processbench_scores
from capo_lit.evaluation.judging.solutions import Solution
from capo_lit.genprm.judge import GenPRM

RULES: tuple[VoteRule, ...] = get_args(VoteRule)


def judge_solutions(
    judge: GenPRM, solutions: Sequence[Solution], seed: int, chunk: int = 16
) -> Iterator[tuple[Solution, dict[str, Any]]]:
    """Critique solutions and vote under every rule.

    Args:
        judge: critiques them; its own rule gives the verdict, the others are computed from the same critiques.
        solutions: in any order; the critiques of one do not depend on the others.
        seed: of all critiques.
        chunk: solutions handed to the judge at a time, so that none waits for its turn until its deadline is past.

    Yields:
        A solution and its result (see `result`), in the order they are settled.

    Raises:
        JudgeError: if all critiques of a chunk failed and none before it was answered.
    """
    answered = False
    for start in range(0, len(solutions), chunk):
        part = solutions[start : start + chunk]
        rollouts = [solution.rollout(start + index) for index, solution in enumerate(part)]
        causes: list[str] = []
        for item in judge.judge(rollouts, seed):
            failures = [critique.cause for critique in item.critiques if failed(critique.cause)]
            answered = answered or len(failures) < len(item.critiques)
            causes += failures
            solution = part[item.rollout.row - start]
            yield solution, result(solution, item, judge.k, judge.vote)
        if causes and not answered:
            got = f"no reply to the first {len(causes)} requests ({causes[0]})"
            raise JudgeError(got, "a judge that answers", "capo critique", "judge.engine, or judge.deadline_s")


def failed(cause: str) -> bool:
    """Whether a critique with this cause never came, so that asking again may help.

    Args:
        cause: of a Critique.
    """
    return cause == "timeout" or cause.startswith("error")


def result(solution: Solution, item: CritiquedRollout, k: int, vote: VoteRule) -> dict[str, Any]:
    """One row of output.

    Args:
        solution: what was judged.
        item: its critiques and the verdict under the judge's own rule.
        k: critiques that the judge asks of a solution.
        vote: the judge's own rule.

    Returns:
        Plain values: the solution, its critiques, the verdict (`vote`, `step_error`, `first_wrong`, `valid`,
        `abstained`, `agreement`), and `step_error_<rule>`, `first_wrong_<rule>` for every rule. A `first_wrong` is -1
        if no step is wrong and None if no valid critique says so. `step_error_<rule>` is None where the rule cannot
        be applied: greedy to several critiques, or a rule that critiques which were called off could still change.
    """
    row: dict[str, Any] = {
        "id": solution.uid,
        "key": solution.key,
        "problem": solution.problem,
        "steps": list(solution.steps),
        "label": solution.label,
        "critiques": [_plain(critique) for critique in item.critiques],
        "vote": vote,
        **_verdict("", item.verdict.step_error, item.verdict.valid),
        "valid": item.verdict.valid,
        "abstained": item.verdict.abstained,
        "agreement": item.verdict.agreement,
    }
    votes = [critique.wrong for critique in item.critiques if not critique.aborted]
    outstanding = k - len(votes) if solution.steps else 0
    for rule in RULES:
        known = (rule != "greedy" or k == 1) and settled(votes, outstanding, len(solution.steps), rule)
        errors = tally(votes, len(solution.steps), rule).step_error if known else None
        row |= _verdict(f"_{rule}", errors, item.verdict.valid)
    return row


def score_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """ProcessBench's scores of the labelled rows, and agreement and cost of all.

    Args:
        rows: results, as `result` gives them, of one judge.

    Returns:
        Plain values for JSON. `voted` holds the scores under every rule that every labelled row could be voted by,
        `single` the means over the k critiques, each scored as a judge of its own (None if some were called off).
    """
    labelled = [row for row in rows if row["label"] is not None]
    labels = [row["label"] for row in labelled]
    voted = {
        rule: asdict(processbench_scores(labels, [row[f"first_wrong_{rule}"] for row in labelled]))
        for rule in RULES
        if labelled and all(row[f"step_error_{rule}"] is not None for row in labelled)
    }
    critiques = [critique for row in rows for critique in row["critiques"]]
    firsts = [[_first(c["wrong"]) for c in row["critiques"] if c["wrong"] is not None] for row in rows]
    agreement = critique_agreement(firsts, [row["agreement"] for row in rows])
    return {
        "solutions": len(rows),
        "labelled": len(labelled),
        "voted": voted,
        "single": _single(labelled),
        "agreement": asdict(agreement),
        "critiques": len(critiques),
        "valid": sum(critique["wrong"] is not None for critique in critiques),
        "failed": sum(failed(critique["cause"]) for critique in critiques),
        "prompt_tokens": sum(critique["prompt_tokens"] for critique in critiques),
        "completion_tokens": sum(critique["completion_tokens"] for critique in critiques),
    }


def _plain(critique: Critique) -> dict[str, Any]:
    return {
        "reply": critique.reply,
        "wrong": None if critique.wrong is None else sorted(critique.wrong),
        "cause": critique.cause,
        "prompt_tokens": critique.prompt_tokens,
        "completion_tokens": critique.completion_tokens,
        "seconds": critique.seconds,
    }


def _verdict(suffix: str, step_error: Sequence[float] | None, valid: int) -> dict[str, Any]:
    errors = None if step_error is None else list(step_error)
    return {
        f"step_error{suffix}": errors,
        f"first_wrong{suffix}": first_wrong(errors) if errors is not None and valid else None,
    }


def _first(wrong: Sequence[int]) -> int:
    return min(wrong, default=NO_WRONG_STEP)


def _single(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Every critique's own score, averaged over the k places; a solution without steps has an answer at none."""
    critiques = [row["critiques"] for row in rows]
    k = max((len(several) for several in critiques), default=0)
    if k == 0 or any(several and _incomplete(several, k) for several in critiques):
        return None
    labels = [row["label"] for row in rows]
    votes = [[several[place]["wrong"] if several else None for several in critiques] for place in range(k)]
    firsts = [[None if wrong is None else _first(wrong) for wrong in place] for place in votes]
    each = [asdict(processbench_scores(labels, place)) for place in firsts]
    return {name: fmean(values) if None not in (values := [one[name] for one in each]) else None for name in each[0]}


def _incomplete(critiques: Sequence[Mapping[str, Any]], k: int) -> bool:
    return len(critiques) < k or any(critique["cause"] == ABORTED for critique in critiques)
