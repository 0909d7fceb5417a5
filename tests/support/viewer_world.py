"""Run folders to look at: a small one with everything in it, a hostile one and a long one."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa

from capo_lit.records.schema import SCHEMA, file_name, write_atomic
from capo_lit.records.table import batch_table
from tests.support.finished_batch import make_batch

# Everything that has ever ended a script element, a line of script, an attribute or a comment.
HOSTILE = (
    "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
    '"><svg onload="window.pwned = 3"></textarea><!-- --> {{script}} {{index}} \u2028\u2029\u202e \x00 &lt;b&gt; 🙂'
)
CURVES = {
    "val/avg_at_k": {0: 0.25, 2: 0.5},
    "reward/token_mean": {1: 0.5, 2: float("nan"), 3: 1.5},
    "critique/judge_completion_tokens": {1: 120.0, 2: 90.0, 3: 60.0},
}


def rows(step: int = 12) -> list[dict[str, Any]]:
    """Two rollouts of one prompt: a right one with a wrong step, and one of unknown outcome without a verdict."""
    return batch_table(make_batch(step), "toy").to_pylist()


def solution(step: int, group: int, sample: int, text: str = "1+1=2\n\nso 2", **changes: Any) -> dict[str, Any]:
    """One rollout of two steps, of which both critiques call the second wrong."""
    pieces = [*(part for part in text.partition("\n\n") if part), ""]
    split = len(text.partition("\n\n")[0]) + 2
    tokens = len(pieces)
    critique = {"reply": "step 1 is wrong", "wrong": [1], "cause": "", "seconds": 0.5}
    made = {
        "run": "toy", "step": step, "rank": 0, "row": 0, "group": group, "sample": sample, "uid": f"toy/{group}",
        "problem": f"What is {group}+1?", "answer": str(group + 1), "prompt_ids": [5, 6],
        "response_ids": [*range(10, 9 + tokens), 2], "pieces": pieces, "special": [False] * (tokens - 1) + [True],
        "text": text, "finish_reason": "stop", "policy_version": step, "engine_logprobs": [-0.5] * tokens,
        "trainer_logprobs": [-0.5] * tokens, "outcome": 1.0,
        "spans": [{"start": 0, "end": split}, {"start": split, "end": len(text)}],
        "step_error": [0.0, 1.0], "valid": 2, "abstained": 0, "agreement": 1.0, "critiques": [critique, critique],
        "step_of_token": [0] * (tokens - 2) + [1, -1], "token_rewards": [2.0] * (tokens - 2) + [1.0, 2.0],
        "advantages": [0.5] * (tokens - 2) + [-1.5, 0.5], "seconds": 0.25,
    }  # fmt: skip
    return {**made, **changes}


def write_step(folder: Path, step: int, made: list[dict[str, Any]]) -> None:
    """A step's record file."""
    version = rows()[0]["schema_version"]
    versioned = [{**row, "schema_version": version} for row in made]
    write_atomic(pa.Table.from_pylist(versioned, schema=SCHEMA), folder / "records" / file_name(step))


def write_curves(folder: Path, curves: dict[str, dict[int, float]] = CURVES) -> None:
    """What the run logged."""
    logs = folder / "csv" / "version_0"
    logs.mkdir(parents=True)
    with (logs / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", *curves, "step"])
        writer.writeheader()
        for step in sorted({step for curve in curves.values() for step in curve}):
            found = {name: curve[step] for name, curve in curves.items() if step in curve}
            writer.writerow({"step": step, "epoch": 0, **found})


def small_run(folder: Path) -> Path:
    """Three steps; each has a rollout that both critiques fault, one on which they disagree, one without a verdict."""
    clear = {"reply": "all fine", "wrong": [], "cause": "", "seconds": 0.25}
    faults = {"reply": "the second step is a guess", "wrong": [1], "cause": "", "seconds": 0.5}
    mute = {"reply": "??", "wrong": None, "cause": "parse", "seconds": 0.1}
    for step in range(3):
        split = solution(step, 0, 1, critiques=[faults, clear], agreement=0.5, step_error=[0.0, 1.0], outcome=0.0)
        none = solution(step, 1, 0, "7", spans=[{"start": 0, "end": 1}], step_error=[0.0], valid=0, abstained=2)
        none |= {"critiques": [mute, mute], "outcome": None, "step_of_token": [0, -1], "advantages": [0.0, 0.0]}
        write_step(folder, step, [solution(step, 0, 0), split, none])
    write_curves(folder)
    return folder


def hostile_run(folder: Path) -> Path:
    """One rollout, in which every text is an attack."""
    critique = {"reply": HOSTILE, "wrong": [0], "cause": HOSTILE, "seconds": 0.5}
    texts = dict.fromkeys(("run", "uid", "problem", "answer", "reference", "finish_reason"), HOSTILE)
    pieces = [HOSTILE, "\n\n", "", ""]
    tokens = {"pieces": pieces, "text": HOSTILE + "\n\n", "special": [False, False, False, True]}
    ends = {"spans": [{"start": 0, "end": len(HOSTILE) + 2}], "step_error": [1.0], "step_of_token": [0, 0, 0, -1]}
    names = ("engine_logprobs", "trainer_logprobs", "token_rewards", "advantages")
    lists = {name: [1.0, 0.5, -0.5, 0.0] for name in names}
    row = solution(0, 0, 0, critiques=[critique, {**critique, "wrong": None}])
    write_step(folder, 0, [{**row, **texts, **tokens, **ends, **lists, "response_ids": [7, 8, 9, 2]}])
    return folder


def long_run(folder: Path, rollouts: int, steps: int = 20) -> Path:
    """Many rollouts in groups of 10, each with a text of its own."""
    each = rollouts // steps
    for step in range(steps):
        made = [
            solution(step, row // 10, row % 10, f"rollout {step}-{row}\n\nso {row * step % 97}", row=row)
            for row in range(each)
        ]
        write_step(folder, step, made)
    return folder
