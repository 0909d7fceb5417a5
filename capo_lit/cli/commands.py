"""The `capo` command. Nothing heavy is imported before a subcommand asks for it."""

import json
import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module

_USAGE = """usage: capo COMMAND [--help] [GROUP=NAME ...] [KEY=VALUE ...] [--config FILE.yaml] [OPTIONS]

Credit Assignment Policy Optimization: reinforcement learning with verifiable rewards, in which a judge names the
wrong steps of each sampled solution and only their tokens lose reward.

training and evaluation (Lightning CLI; `capo fit --help` lists every setting):
  fit        train a policy: capo fit experiment=capo seed=1, or capo fit --config configs/quickstart.yaml
             resume a killed run: the same command with --ckpt_path last
  validate   avg@k, pass@k, maj@k, greedy accuracy and more on the validation prompts, with a manifest
  test       the same on the test prompts
  predict    sample solutions of the test prompts and write them as records

tools:
  plan       the memory that a run will need, and what would make it fit: capo plan experiment=capo llm=...
  critique   judge a file of solutions: capo critique FILE.jsonl --config configs/judge/smollm2.yaml
  replay     verdicts of a run's records under another vote, k or weights, without a judge
  verify     outcomes of a file of answers: capo verify FILE.jsonl (rows {gold, prediction})
  prepare    make a model that no hub is needed for: capo prepare quickstart (pocket_judge,
             arithmetic, smollm2)
  quickstart train the built-in arithmetic task from nothing, CAPO against GRPO, and print the table
  inspect    a page with a run's rollouts, critiques and curves: capo inspect RUN [--serve]
  report     compare runs or sweeps, as a page with tables and figures: capo report runs/sweep-1 --out report

many runs and one table: capo-sweep -m experiment=capo,grpo_rule seed=1,2,3 (see docs/sweeps.md)

environment:
  CAPO_DEBUG=1   full tracebacks instead of one-line errors
  HF_HUB_OFFLINE=1   never ask a model hub
"""
_TRAINER_COMMANDS = ("fit", "validate", "test", "predict")
# Each module has a `main(argv) -> exit status`, and is imported only when its command is asked for.
_TOOLS = {
    "plan": "capo_lit.cli.plan",
    "critique": "capo_lit.cli.critique",
    "replay": "capo_lit.cli.replay",
    "verify": "capo_lit.cli.verify",
    "inspect": "capo_lit.cli.inspect",
    "prepare": "capo_lit.cli.prepare",
    "quickstart": "capo_lit.cli.quickstart",
    "report": "capo_lit.cli.report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `capo` command.

    Args:
        argv: arguments after the program's name; the process's own by default.

    Returns:
        The exit status.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(_USAGE)
        return 0
    # Threads that wait for work asleep: spinning ones slow everything down twentyfold as soon as a second process (a
    # verifier, another run) wants the cores. Read by the OpenMP runtimes when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _dispatch(args[0], args[1:])
    except ArgumentError as error:
        if os.environ.get("CAPO_DEBUG"):
            raise
        sys.stderr.write(f"capo: {error}\n")
        return 2
    except Exception as error:
        ours = _cause_of_ours(error)
        if ours is None or os.environ.get("CAPO_DEBUG"):
            raise
        sys.stderr.write(f"capo: {type(ours).__name__}: {ours}\n")
        return 1


def _cause_of_ours(error: BaseException | None) -> BaseException | None:
    """The CapoError that an exception is, or was raised from: the parser wraps what a constructor raises."""
    from capo_lit.core.errors import CapoError

    while error is not None and not isinstance(error, CapoError):
        error = error.__cause__ or error.__context__
    return error


def split_words(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The leading words, which Hydra composes, and the flags, which the Lightning CLI parses."""
    first = next((index for index, word in enumerate(args) if word.startswith("-") or "=" not in word), len(args))
    return list(args[:first]), list(args[first:])


def composed(words: Sequence[str]) -> list[str]:
    """What words compose, as a flag of the Lightning CLI; nothing for no words."""
    from capo_lit.cli.compose import compose

    return ["--config", json.dumps(compose(words))] if words else []


def _train(command: str, words: list[str], flags: list[str]) -> None:
    """Run a subcommand of the Lightning CLI; flags lie over what the words compose."""
    config = composed(words)  # first: its errors need no slow import
    from capo_lit.cli.parser import brief
    from capo_lit.cli.trainer import build

    try:
        build([command, *config, *flags])
    except ArgumentError as error:
        where = f"{' '.join(words)}: " if words else ""
        raise ArgumentError(None, where + brief(error)) from error


def _dispatch(command: str, rest: list[str]) -> int:
    if command in _TRAINER_COMMANDS:
        words, flags = split_words(rest)
        _train(command, words, flags)
        return 0
    if command in _TOOLS:
        return int(import_module(_TOOLS[command]).main(rest))
    sys.stderr.write(f"capo: unknown command {command!r}; `capo --help` lists the commands\n")
    return 2
