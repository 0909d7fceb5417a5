"""`capo critique`: judge a file of solutions offline; with labels, score the judge as ProcessBench does."""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo_lit.cli.command import ended, read_docstring
from capo_lit.cli.show import show_table, tracked
from capo_lit.core.errors import check_settings
from capo_lit.core.files import write_atomic
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import Style

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from capo_lit.genprm.judge import GenPRM

# Settings of where and how fast critiques are made, and not of what they say: a run may go on with others.
_OPERATIONAL = {
    *("deadline_s", "first_wave", "store", "timeout_s", "max_concurrency", "base_urls"),
    *("api_key_env", "max_model_len", "max_num_seqs", "kv_cache_gib", "gpu_memory_utilization"),
}


def critique(
    given: "tuple[ArgumentParser, Namespace]",
    file: Path,
    style: Style = "paragraph",
    output: Path | None = None,
    scores: Path | None = None,
    seed: int = 0,
    sample: int | None = None,
    chunk: int = 16,
) -> None:
    """Judge a file of solutions, one row each.

    A row has: problem; steps (a list of texts, which the judge sees as they are) or solution (one text, which is
    split); optionally label (first wrong step counted from 0, -1 if there is none), id, reference and answer. Writes
    critiques and verdicts as parquet; with labels, prints ProcessBench's scores. A run that was killed goes on when the
    same command is given again; what failed because the judge could not be reached is then asked again.

    Args:
        given: the parser and all that it parsed; it builds the judge once the file is known to be usable.
        file: The solutions; jsonl, JSON, csv, tsv or parquet.
        style: How a `solution` is split into steps.
        output: Parquet file; <FILE>.critiques.parquet here by default.
        scores: Also write the scores to this JSON file.
        seed: Of all critiques.
        sample: Judge only so many rows, drawn by the seed; more of them include the fewer. Null takes all.
        chunk: Solutions that are with the judge at the same time.
    """
    from capo_lit.evaluation.judging.offline import judge_solutions, score_rows
    from capo_lit.evaluation.judging.solutions import draw_sample, read_solutions
    from capo_lit.records.critiques import CritiqueFile

    checks = (
        (sample is None or sample >= 1, f"sample {sample}", "an integer >= 1, or null", "--sample"),
        (chunk >= 1, f"chunk {chunk}", "an integer >= 1", "--chunk"),
    )
    check_settings(checks, "capo critique")
    parser, args = given
    solutions = read_solutions(file, style, args.judge.reference)
    selected = draw_sample(solutions, sample, seed)
    output = output or Path(f"{file.stem}.critiques.parquet")
    settings = json.loads(parser.dump(args, format="json"))
    judge: GenPRM = parser.instantiate_classes(args).judge
    started = time.perf_counter()
    with CritiqueFile(output, _identity(settings, file, judge)) as results:
        todo = [solution for solution in selected if solution.key not in results.done]
        sys.stderr.write(f"{len(selected)} solutions, {len(selected) - len(todo)} of them judged before\n")
        counts: Counter[str] = Counter(tokens=0, abstained=0)
        judged = judge_solutions(judge, todo, derive_seed(seed, "critique"), chunk)
        told = "{tokens} tokens, {abstained} critiques abstained".format_map
        try:
            for _, row in tracked(judged, "judging", len(todo), lambda: told(counts)):
                results.append(row)
                counts["tokens"] += sum(one["completion_tokens"] for one in row["critiques"])
                counts["abstained"] += row["abstained"]
        finally:
            judge.engine.close()
        # Rows outside the sample that an earlier run judged stay in the output.
        results.finish([results.done[solution.key] for solution in solutions if solution.key in results.done])
    found = score_rows([results.done[solution.key] for solution in selected])
    found |= {"file": file.name, "judged_now": len(todo), "seconds_now": time.perf_counter() - started}
    _report(found, output, judge.vote)
    if scores is not None:
        text = json.dumps(found | {"settings": settings["judge"]}, indent=2) + "\n"
        write_atomic(scores, lambda path: path.write_text(text, encoding="utf-8"), "--scores")


def main(argv: Sequence[str]) -> int:
    """Run `capo critique`; returns the exit status."""
    return ended("capo critique", lambda: _run(list(argv)), "the same command goes on where this one stopped")


def _run(argv: list[str]) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    settings = {name: value for name, value in vars(args).items() if name not in ("config", "judge")}
    critique((parser, args), **settings)


def _parser() -> "ArgumentParser":
    """Unlike other commands' it takes configs and a class, whose settings jsonargparse knows."""
    from jsonargparse import ArgumentParser

    from capo_lit.genprm.judge import GenPRM

    parser = ArgumentParser(prog="capo critique", description=read_docstring(critique)[0])
    parser.add_argument("--config", action="config", help="YAML file of these settings, for example of judge.")
    parser.add_class_arguments(GenPRM, "judge")
    parser.add_function_arguments(critique, as_group=False, as_positional=True, skip={"given"})
    # In training only the judge's own verdict counts; here every rule and every single critique is to be scored.
    parser.set_defaults({"judge.early_stop": False})
    return parser


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


def _report(scores: Mapping[str, Any], output: Path, vote: str) -> None:
    """The table of scores on standard output, and what the critiques were and cost."""
    if scores["voted"]:
        _show_scores(scores, vote)
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
    sys.stdout.write("\n".join(lines) + "\n")
    if scores["failed"]:
        sys.stderr.write("some critiques failed; the same command asks for those solutions again\n")


def _show_scores(scores: Mapping[str, Any], vote: str) -> None:
    first = next(iter(scores["voted"].values()))
    rows = {f"{rule} (the judge's)" if rule == vote else rule: score for rule, score in scores["voted"].items()}
    if scores["single"] is not None:
        rows["single critique, mean"] = scores["single"]
    fields = ("accuracy_erroneous", "accuracy_correct", "f1")
    show_table(
        f"{first['erroneous']} erroneous and {first['correct']} correct solutions, accuracy in %",
        ("verdict", "erroneous", "correct", "F1", "no valid critique"),
        [
            (name, *(_percent(score[field]) for field in fields), f"{score['unanswered']:g}")
            for name, score in rows.items()
        ],
        "A solution without a valid critique counts as answered wrongly.",
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
