"""Judging the answers of a benchmark: our verifier for mathematics, the letter for multiple choice."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from capo_lit.evaluation.benchmarks.rows import LETTERS
from capo_lit.verifier.answer import final_answer
from capo_lit.verifier.pool import Outcome, Verifier

_LETTER = re.compile(r"[\s(\[*$]*(?:\\(?:text|mathrm|textbf|mathbf)\{\s*\(?)?([A-Z])(?![A-Za-z])")


@cache
def verifier() -> Verifier:
    """The verifier of this process; its workers start when an answer needs them."""
    return Verifier()


def all_responses(responses: Iterable[Sequence[str]], docs: Any) -> Iterable[Sequence[str]]:
    """Keep every repeat: lm-eval's own filters keep one, or a number fixed in the task."""
    return responses


def judge_answers(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Metrics of one problem from its k responses, by the verifier.

    Returns:
        avg_at_k and, with k > 1, pass_at_k over responses of known outcome; unknown_frac, the share of the others.
    """
    return _metrics(verifier().score([(doc["answer"], response) for response in results[0]]))


def judge_letters(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Metrics of one multiple choice problem from its k responses, by the letter each answers with."""
    return _metrics([float(chosen_letter(response, doc["count"]) == doc["answer"]) for response in results[0]])


def chosen_letter(response: str, count: int) -> str | None:
    """The letter of the choice that a response ends on: "(B)", "B", "\\text{B}", "B. because" in its final answer.

    Args:
        response: the policy's text.
        count: how many choices there are.

    Returns:
        The letter, or None if its final answer does not begin with one of the first `count` letters.
    """
    answer = final_answer(response)
    found = _LETTER.match(answer) if answer else None
    return found[1] if found and found[1] in LETTERS[:count] else None


def _metrics(outcomes: Sequence[Outcome]) -> dict[str, float]:
    known = [outcome for outcome in outcomes if outcome is not None]
    values = {"unknown_frac": 1.0 - len(known) / len(outcomes)}
    if known:
        values["avg_at_k"] = sum(known) / len(known)
        if len(outcomes) > 1:
            values["pass_at_k"] = max(known)
    return values
