"""What the records of a run cost: bytes per step, and the seconds of writing against those of the whole step.

    .venv/bin/python bench/record_cost.py runs/quickstart/capo

The rows of every recorded step are made and written again, from rollouts, critiques and credit as the run held them, to
the disk of the run; the time of its steps is the run's own `time/step_s`. Times are medians over the steps. Waiting for
the disk is shown apart: RecordCallback does it in a thread, beside the next step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from capo_lit.batch.credit import token_table
from capo_lit.batch.facts import Completion, Critique, CritiquedRollout, Prompt, Rollout
from capo_lit.batch.step import StepBatch, pad_rows
from capo_lit.core.votes import Verdict
from capo_lit.records.curves import read_curves
from capo_lit.records.schema import file_name, flush, read_records, record_files, write_atomic
from capo_lit.records.table import batch_table


def batch_of(rows: list[dict[str, Any]]) -> StepBatch:
    """The batch that a step's records were made from."""
    rollouts = [rollout_of(row) for row in rows]
    groups = {rollout.group: rollout.prompt for rollout in rollouts}
    batch = StepBatch([groups[group] for group in sorted(groups)], rows[0]["step"])
    batch.set_rollouts(rollouts)
    if rows[0]["critiques"] is not None:
        batch.set_verdicts([verdict_of(row, rollout) for row, rollout in zip(rows, rollouts, strict=True)])
    floats = {
        name: pad_rows([row[name] for row in rows], 0.0, torch.float32) for name in ("token_rewards", "advantages")
    }
    batch.set_credit(
        replace(
            token_table(batch, w_process=0.0),
            **floats,
            mask=pad_rows([[True] * len(row["pieces"]) for row in rows], False, torch.bool),
            step_of_token=pad_rows([row["step_of_token"] for row in rows], -1, torch.long),
            logprobs=pad_rows([row["trainer_logprobs"] for row in rows], 0.0, torch.float32),
        )
    )
    return batch


def rollout_of(row: dict[str, Any]) -> Rollout:
    """A recorded rollout."""
    prompt = Prompt(row["uid"], row["problem"], tuple(row["prompt_ids"]), row["answer"], row["reference"])
    logprobs = None if row["engine_logprobs"] is None else tuple(row["engine_logprobs"])
    completion = Completion(
        request_id="",
        ids=tuple(row["response_ids"]),
        pieces=tuple(row["pieces"]),
        special=tuple(row["special"]),
        text=row["text"],
        logprobs=logprobs,
        finish_reason=row["finish_reason"],
        prompt_tokens=len(row["prompt_ids"]),
        version=row["policy_version"],
        seconds=row["seconds"],
    )
    spans = None if row["spans"] is None else tuple((span["start"], span["end"]) for span in row["spans"])
    return Rollout(row["row"], row["group"], row["sample"], prompt, completion, row["outcome"], spans=spans)


def verdict_of(row: dict[str, Any], rollout: Rollout) -> CritiquedRollout:
    """Its recorded critiques and vote."""
    critiques = [
        Critique(**{**one, "wrong": None if one["wrong"] is None else frozenset(one["wrong"])})
        for one in row["critiques"]
    ]
    verdict = Verdict(tuple(row["step_error"]), row["valid"], row["abstained"], row["agreement"])
    return CritiquedRollout(rollout, tuple(critiques), verdict)


def writes(run: Path) -> Iterator[tuple[float, float, int]]:
    """Seconds of writing, seconds of waiting for the disk, and bytes of every step's record, written anew."""
    with tempfile.TemporaryDirectory(dir=run) as folder:
        for file in record_files(run / "records"):
            batch = batch_of(read_records(file.path).to_pylist())
            path = Path(folder) / file_name(file.step)
            started = time.perf_counter()
            write_atomic(batch_table(batch, "bench"), path)
            written = time.perf_counter()
            flush(path, path.parent)
            yield written - started, time.perf_counter() - written, path.stat().st_size


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs, of one process each")
    heads = "run", "rollouts", "tokens", "kB per step", "MB in 1,000", "writing, ms", "disk, ms", "step, ms", "share"
    print(f"| {' | '.join(heads)} |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for run in parser.parse_args().runs:
        table = read_records(run / "records", ["step", "response_ids"])
        steps = len(record_files(run / "records"))
        tokens = sum(map(len, table["response_ids"].to_pylist())) / len(table)
        measured = list(writes(run))
        seconds, disk = (statistics.median(column) * 1e3 for column in list(zip(*measured, strict=True))[:2])
        size = statistics.mean(size for _, _, size in measured) / 1e3
        whole = statistics.median(read_curves(run)["time/step_s"].values()) * 1e3
        cells = f"{len(table) / steps:.0f} | {tokens:.0f} | {size:.1f} | {size:.0f} | {seconds:.1f} | {disk:.1f}"
        print(f"| {run.name} | {cells} | {whole:.0f} | {seconds / whole:.1%} |", flush=True)


if __name__ == "__main__":
    main()
