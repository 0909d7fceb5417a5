"""The records of runs opened for reading: filter, find, render, replay. What notebooks call.

runs = load("runs/mine/capo")
for record in runs.where(outcome="right").most_disagreed(3):
    print(record)  # in a notebook: display(record)
"""

from capo_lit.core.lazy import lazy_names

_NAMES = {
    "changes": ("PromptHistory", "Visit"),
    "html": ("STYLE", "ShownRecord", "critiques_html", "pair_html", "rollout_html", "steps_html", "votes_html"),
    "loading": ("load",),
    "quality": ("Labelled", "labelled_critiques", "vote_quality"),
    "record": ("WRONG_FROM", "Outcome", "Record", "Step", "Token", "outcome_word"),
    "rollouts": ("Replayed", "Rollouts", "Truth"),
}
# Late: whoever reads one record needs neither numpy nor the other readers.
_HOMES = {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
__all__ = list(_HOMES)
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
