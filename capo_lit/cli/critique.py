"""`capo critique`: judge a file of solutions offline; with labels, score the judge as ProcessBench does."""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo_lit.core.errors import CapoError, DataError, check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import Style

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from rich.table import Table

    from capo_lit.evaluation.judging.solutions import Solution
    from capo_lit.genprm.judge import GenPRM
    from capo_lit.records.critiques import CritiqueFile

# Settings of where and how fast critiques are made, and not of what they say: a run may go on with others.
_OPERATIONAL = {"deadline_s", "first_wave", "store", "timeout_s", "max_retries", "max_concurrency", "max_batch"} | {
    "base_urls",
    "api_key_env",
    "max_model_len",
    "max_num_seqs",
    "kv_cache_gib",
    "gpu_memory_utilization",
    "enforce_eager",
    "sleep",
}


def main(argv: Sequence[str]) -> int:
    """Run `capo critique`.

    Args:
        argv: the arguments after `critique`.

    Returns:
        The exit status: 0, 1 if a row, a setting or the judge cannot be used, 130 if it was interrupted.
    """
    parser = _parser()
    try:
        args = parser.parse_args(list(argv))
        _run(parser, args)
    except CapoError as error:
        sys.stderr.write(f"capo critique: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("capo critique: interrupted; the same command goes on where this one stopped\n")
        return 130
    return 0


def _parser() -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    from capo_lit.genprm.judge import GenPRM

    parser = ArgumentParser(
        prog="capo critique",
        description="Judge a file of solutions, one row each: problem; steps (a list of texts, which the judge sees as "
        "they are) or solution (one text, which is split); optionally label (first wrong step counted from 0, -1 if "
        "there is none), id, reference and answer. Writes critiques and verdicts as parquet; with labels, prints "
        "ProcessBench's scores. A run that was killed goes on when the same command is given again; what failed "
        "because the judge could not be reached is then asked again.",
    )
    parser.add_argument("--config", action="config", help="YAML file of these settings, for example of judge.")
    parser.add_argument("file", type=str, metavar="FILE.jsonl", help="the solutions; jsonl, JSON, csv, tsv or parquet")
    parser.add_class_arguments(GenPRM, "judge")
    parser.add_argument("--style", type=Style, default="paragraph", help="How a `solution` is split into steps.")
    # In training only the judge's own verdict counts; here every rule and every single critique is to be scored.
    parser.set_defaults({"judge.early_stop": False})
    parser.add_argument(
        "--output", type=str | None, default=None, help="Parquet file; <FILE>.critiques.parquet here by default."
    )
    parser.add_argument("--scores", type=str | None, default=None, help="Also write the scores to this JSON file.")
    parser.add_argument("--seed", type=int, default=0, help="Of all critiques.")
    parser.add_argument(
        "--sample",
        type=int | None,
        default=None,
        help="Judge only so many rows, drawn by the seed; more of them include the fewer. Null takes all.",
    )
    parser.add_argument("--chunk", type=int, default=16, help="Solutions that are with the judge at the same time.")
    return parser


def _run(parser: "ArgumentParser", args: "Namespace") -> None:
    from capo_lit.evaluation.judging.offline import score_rows
    from capo_lit.evaluation.judging.solutions import draw_sample, read_solutions
    from capo_lit.records.critiques import CritiqueFile

    checks = (
        (args.sample is None or args.sample >= 1, f"sample {args.sample}", "an integer >= 1, or null", "--sample"),
        (args.chunk >= 1, f"chunk {args.chunk}", "an integer >= 1", "--chunk"),
    )
    check_settings(checks, "capo critique")
    path = Path(args.file)
    solutions = read_solutions(path, args.style, args.judge.reference)
    selected = draw_sample(solutions, args.sample, args.seed)
    output = Path(args.output or f"{path.stem}.critiques.parquet")
    settings = json.loads(parser.dump(args, format="json"))
    judge: GenPRM = parser.instantiate_classes(args).judge
    started = time.perf_counter()
    with CritiqueFile(output, _identity(settings, path, judge)) as results:
        todo = [solution for solution in selected if solution.key not in results.done]
        sys.stderr.write(f"{len(selected)} solutions, {len(selected) - len(todo)} of them judged before\n")
        try:
            _judge_all(judge, todo, results, derive_seed(args.seed, "critique"), args.chunk)
        finally:
            judge.engine.close()
        # Rows outside the sample that an earlier run judged stay in the output.
        results.finish([results.done[solution.key] for solution in solutions if solution.key in results.done])
    scores = score_rows([results.done[solution.key] for solution in selected])
    scores |= {"file": path.name, "judged_now": len(todo), "seconds_now": time.perf_counter() - started}
    _report(scores, output, judge.vote)
    if args.scores is not None:
        _write_json(scores | {"settings": settings["judge"]}, Path(args.scores))


def _judge_all(judge: "GenPRM", todo: Sequence["Solution"], results: "CritiqueFile", seed: int, chunk: int) -> None:
    """Judge what is to be judged, and write each result when it is settled."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from capo_lit.evaluation.judging.offline import judge_solutions

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    text = TextColumn("{task.fields[tokens]} tokens, {task.fields[abstained]} critiques abstained")
    console, tokens, abstained = Console(stderr=True), 0, 0
    with Progress(TextColumn("judging"), *columns, text, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("judging", total=len(todo), tokens=0, abstained=0)
        for _, row in judge_solutions(judge, todo, seed, chunk):
            results.append(row)
            tokens += sum(critique["completion_tokens"] for critique in row["critiques"])
            abstained += row["abstained"]
            bar.update(task, advance=1, tokens=tokens, abstained=abstained)


def _identity(settings: Mapping[str, Any], path: Path, judge: "GenPRM") -> dict[str, Any]:
    """The settings that decide what the results say, by dotted name."""
    judging = {
        name: value for name, value in _flat("judge", settings["judge"]) if not _OPERATIONAL & {*name.split(".")}
    }
    template = hashlib.sha256(f"{judge.template.schema or ''}{judge.template.text}".encode()).hexdigest()[:16]
    return judging | {"file": path.name, "seed": settings["seed"], "judge.template": template}


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from _flat(f"{name}.{key}", inner)


def _write_json(value: Mapping[str, Any], path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{error.strerror or error}", "a place to write", str(path), "--scores") from error


def _report(scores: Mapping[str, Any], output: Path, vote: str) -> None:
    """The table of scores on standard output, and what the critiques were and cost."""
    from rich.console import Console

    console = Console(highlight=False)
    if scores["voted"]:
        console.print(_table(scores, vote))
    agreement, critiques = scores["agreement"], scores["critiques"]
    lines = [
        f"critiques: {critiques}, of them {scores['valid']} valid, {scores['failed']} failed",
        f"agreement of critiques over {agreement['solutions']} solutions with two or more valid ones: "
        f"{_percent(agreement['same_first'])} of pairs name the same first wrong step, "
        f"{_percent(agreement['steps'])} of votes stand on their step's larger side",
        f"tokens: {scores['prompt_tokens']} read, {scores['completion_tokens']} written; "
        f"{scores['judged_now']} solutions judged now in {scores['seconds_now']:.1f} s",
        f"written: {output}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)
    if scores["failed"]:
        sys.stderr.write("some critiques failed; the same command asks for those solutions again\n")


def _table(scores: Mapping[str, Any], vote: str) -> "Table":
    from rich.table import Table

    first = next(iter(scores["voted"].values()))
    table = Table(title=f"{first['erroneous']} erroneous and {first['correct']} correct solutions, accuracy in %")
    for column in ("verdict", "erroneous", "correct", "F1", "no valid critique"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    rows = {f"{rule} (the judge's)" if rule == vote else rule: score for rule, score in scores["voted"].items()}
    if scores["single"] is not None:
        rows["single critique, mean"] = scores["single"]
    for name, score in rows.items():
        shares = [_percent(score[field]) for field in ("accuracy_erroneous", "accuracy_correct", "f1")]
        table.add_row(name, *shares, f"{score['unanswered']:g}")
    table.caption = "A solution without a valid critique counts as answered wrongly."
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
