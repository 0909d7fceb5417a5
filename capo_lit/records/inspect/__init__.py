"""The records of runs opened for reading: filter, find, render, replay. What notebooks call.

runs = load("runs/mine/capo")
for record in runs.where(outcome="right").most_disagreed(3):
    rich.print(record)  # in a notebook: display(record)
"""

from typing import TYPE_CHECKING

from capo_lit.core.lazy import lazy_names

if TYPE_CHECKING:
    from capo_lit.records.inspect.changes import PromptHistory, Visit
    from capo_lit.records.inspect.html import STYLE, critiques_html, pair_html, rollout_html, steps_html, votes_html
    from capo_lit.records.inspect.loading import load
    from capo_lit.records.inspect.quality import Labelled, labelled_critiques, vote_quality
    from capo_lit.records.inspect.record import WRONG_FROM, Outcome, Record, Step, Token, outcome_word
    from capo_lit.records.inspect.rollouts import Replayed, Rollouts, Truth
    from capo_lit.records.inspect.show import ShownRecord

__all__ = [
    "STYLE",
    "WRONG_FROM",
    "Labelled",
    "Outcome",
    "PromptHistory",
    "Record",
    "Replayed",
    "Rollouts",
    "ShownRecord",
    "Step",
    "Token",
    "Truth",
    "Visit",
    "critiques_html",
    "labelled_critiques",
    "load",
    "outcome_word",
    "pair_html",
    "rollout_html",
    "steps_html",
    "vote_quality",
    "votes_html",
]
_HOMES = {
    "Labelled": "capo_lit.records.inspect.quality",
    "Outcome": "capo_lit.records.inspect.record",
    "PromptHistory": "capo_lit.records.inspect.changes",
    "Record": "capo_lit.records.inspect.record",
    "Replayed": "capo_lit.records.inspect.rollouts",
    "Rollouts": "capo_lit.records.inspect.rollouts",
    "STYLE": "capo_lit.records.inspect.html",
    "ShownRecord": "capo_lit.records.inspect.show",
    "Step": "capo_lit.records.inspect.record",
    "Token": "capo_lit.records.inspect.record",
    "Truth": "capo_lit.records.inspect.rollouts",
    "Visit": "capo_lit.records.inspect.changes",
    "WRONG_FROM": "capo_lit.records.inspect.record",
    "critiques_html": "capo_lit.records.inspect.html",
    "labelled_critiques": "capo_lit.records.inspect.quality",
    "load": "capo_lit.records.inspect.loading",
    "outcome_word": "capo_lit.records.inspect.record",
    "pair_html": "capo_lit.records.inspect.html",
    "rollout_html": "capo_lit.records.inspect.html",
    "steps_html": "capo_lit.records.inspect.html",
    "vote_quality": "capo_lit.records.inspect.quality",
    "votes_html": "capo_lit.records.inspect.html",
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
