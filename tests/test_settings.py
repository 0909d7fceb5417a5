"""How many settings a user may meet, counted by the parser of `capo fit`: the number may fall, and not grow unseen.

`python -m tests.test_settings` prints them.
"""

import importlib
import inspect
import pkgutil
from dataclasses import fields, is_dataclass

from lightning.pytorch import Callback, LightningDataModule

import capo_lit
from capo_lit.data.module import RenderedData
from capo_lit.data.sources import PromptSource
from capo_lit.engines.base import Engine
from capo_lit.evaluation.judging.labelled import LabelledSource
from capo_lit.genprm.base import StepJudge
from capo_lit.training.policy import PolicyModule
from capo_lit.verifier.outcomes import OutcomeSource
from capo_lit.verifier.pool import Verifier
from tests.support.config_parser import fit_actions

MOST = 120
# What Lightning's CLI has by itself.
LIGHTNINGS = ("trainer", "config", "weights_only", "seed_everything", "model", "data", "ckpt_path")
# Not Verifier's subclasses: there are none.
BASES = (PolicyModule, LightningDataModule, Engine, OutcomeSource, StepJudge, PromptSource, LabelledSource, Callback)
NOT_SETTINGS = ("_HelpAction", "_ActionHelpClassPath", "_ActionPrintConfig", "_ActionConfigLoad", "ActionLink")
# The policy, its tokenizer and the run's seed are said once, and linked.
LINKED = {PolicyModule: {"policy", "seed"}, LightningDataModule: {"tokenizer", "seed"}}


def block_settings() -> dict[str, list[str]]:
    """The options of `capo fit` that are neither Lightning's own nor of a class that is chosen, by block."""
    blocks: dict[str, list[str]] = {}
    for action in fit_actions():
        block, _, rest = action.dest.partition(".")
        # A field of a dataclass is counted with the classes.
        if type(action).__name__ not in NOT_SETTINGS and block not in LIGHTNINGS and "." not in rest:
            blocks.setdefault(block if rest else "capo fit", []).append(rest or block)
    return blocks


def chosen_classes() -> list[type]:
    """Every class of ours that a config may name by its class_path, or whose settings stand under an option."""
    for module in pkgutil.walk_packages(capo_lit.__path__, "capo_lit."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type] = [Verifier]
    waiting: list[type] = [*BASES]
    while waiting:
        below = waiting.pop(0).__subclasses__()
        waiting += below
        found += [cls for cls in below if cls.__module__.startswith("capo_lit.") and cls not in found]
    blocks = {"Rollout", "Critique", "Record", "Export", "LMEval", "Results"}
    named = {*(f"{name}Callback" for name in blocks), "RunCheckpoint", "BestCheckpoint"}
    return [
        cls
        for cls in found
        if cls.__name__ not in named
        and cls not in (PolicyModule, RenderedData)
        and not inspect.isabstract(cls)
        and not cls.__name__.startswith("_")
    ]


def class_settings() -> dict[str, list[str]]:
    """The parameters of those classes, each counted once: with the first base that has it, or with its dataclass."""
    table: dict[str, list[str]] = {}
    for cls in chosen_classes():
        linked = {name for base, names in LINKED.items() if issubclass(cls, base) for name in names}
        makers = [owner for owner in cls.__mro__ if "__init__" in vars(owner)]
        table.setdefault(cls.__name__, [])
        for name, kind in parameters(makers).items():
            if is_dataclass(kind):
                table[kind.__name__] = [field.name for field in fields(kind)]
            elif name not in linked:
                owner = [maker for maker in makers if name in inspect.signature(maker.__init__).parameters][-1]
                table.setdefault(owner.__name__, [])
                table[owner.__name__] += [name] if name not in table[owner.__name__] else []
    return table


def parameters(makers: list[type]) -> dict[str, object]:
    """Names and types of what a constructor takes; one that hands on whatever it gets takes its base's too."""
    if not makers[0].__module__.startswith("capo_lit."):  # Lightning's, or none
        return {}
    taken = list(inspect.signature(makers[0].__init__).parameters.values())[1:]
    named = {one.name: one.annotation for one in taken if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
    return named if len(named) == len(taken) else parameters(makers[1:]) | named


def settings() -> dict[str, list[str]]:
    """Both, by block or class."""
    return block_settings() | class_settings()


def test_a_user_meets_no_more_settings_than_today():
    found = settings()
    assert sum(map(len, found.values())) <= MOST, found


if __name__ == "__main__":
    found = settings()
    for owner, names in found.items():
        print(f"{len(names):4} {owner}: {', '.join(names)}")  # noqa: T201
    print(f"{sum(map(len, found.values())):4} in all")  # noqa: T201
