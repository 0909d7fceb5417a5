"""The data that the notebooks read: a short CAPO run, a GRPO run from the same policy, a judge on labelled solutions.

    .venv/bin/python bench/notebook_data.py --policy runs/quickstart/sft/policy --judge runs/pocket_judge/sft/policy

Trains both on 16 problems of the built-in arithmetic, again and again, so that every prompt is seen at many steps: CAPO
under the pocket judge, at temperature 1 and with all four critiques, so that they disagree. Copies the logs and the
records of eight of the 40 steps. Then the judge criticises the solutions of 96 test problems, every other one with one
planted error, six times each and at temperature 1.5, so that it errs. What is there is not made again.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from capo_lit.arithmetic.labelled import PlantedArithmeticErrors
from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.cli.quickstart import fit
from capo_lit.records.schema import file_name

STEPS = (0, 1, 12, 13, 26, 27, 38, 39)  # four passes over the 16 prompts
SHORT = {
    "data.init_args.train.init_args.size": "16",
    "data.init_args.val.init_args.size": "96",
    "trainer.max_steps": "40",
    "trainer.val_check_interval": "10",
    "checkpoint.every_n_steps": "40",
}
JUDGE = {"engine.init_args.model": "", "sampling.temperature": "1.0", "early_stop": "false"}
FIRST, K = 96, "6"


def flags(settings: dict[str, str], prefix: str = "") -> list[str]:
    """Settings as words of a command."""
    return [word for name, value in settings.items() for word in (f"--{prefix}{name}", value)]


def train(args: argparse.Namespace) -> None:
    """Both runs, and what of them is shipped."""
    judge = flags(JUDGE | {"engine.init_args.model": str(args.judge)}, "critique.judge.init_args.")
    plans = {
        "capo": (["quickstart_genprm.yaml"], judge),
        "grpo": (["quickstart.yaml", "algorithm/grpo.yaml"], []),
    }
    for name, (configs, extra) in plans.items():
        run, shipped = args.root / name, args.out / name
        if not (run / "policy").exists():
            fit(configs, run, args.policy, 0, [*flags(SHORT), *extra])
        for part in ("records", "csv/version_0"):
            (shipped / part).mkdir(parents=True, exist_ok=True)
        for step in STEPS:
            shutil.copyfile(run / "records" / file_name(step), shipped / "records" / file_name(step))
        shutil.copyfile(run / "csv/version_0/metrics.csv", shipped / "csv/version_0/metrics.csv")


def judge_labelled(args: argparse.Namespace) -> None:
    """`capo critique` on solutions whose first wrong step is known."""
    output = args.out / "labelled.critiques.parquet"
    if output.exists():
        return
    solutions = PlantedArithmeticErrors(ArithmeticSource(FIRST, 1, split="test")).load()
    rows = [{"id": s.uid, "problem": s.problem, "steps": s.steps, "label": s.label} for s in solutions]
    file = args.root / "labelled.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine = {
        "engine": "capo_lit.VLLMEngine",
        "engine.model": str(args.judge),
        "engine.dtype": "float32",
        "engine.max_model_len": "256",
        "engine.kv_cache_gib": "0.25",
        "sampling.temperature": "1.5",
        "sampling.max_tokens": "96",
        "k": K,
        "vote": "majority",
    }
    command = [
        sys.executable,
        "-m",
        "capo_lit.cli",
        "critique",
        str(file),
        "--output",
        str(args.root / "judged.parquet"),
    ]
    subprocess.run([*command, *flags(engine, "judge.")], check=True, env={"OMP_NUM_THREADS": "1", **os.environ})
    without_settings(args.root / "judged.parquet", output)


def without_settings(path: Path, output: Path) -> None:
    """Copy a parquet file without its metadata, which names files of the machine that it was made on."""
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).replace_schema_metadata(None), output, compression="zstd")


def main() -> None:
    """Make what is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", type=Path, required=True, help="to start from; `capo prepare quickstart` makes it")
    parser.add_argument("--judge", type=Path, required=True, help="`capo prepare pocket_judge` makes it")
    parser.add_argument("--root", type=Path, default=Path("runs/notebooks"), help="folder of the whole runs")
    parser.add_argument("--out", type=Path, default=Path("notebooks/data"), help="folder of what is shipped")
    args = parser.parse_args()
    train(args)
    judge_labelled(args)


if __name__ == "__main__":
    main()
