"""Run folders with figures that a test can work out by hand."""

import csv
import json
from pathlib import Path

import yaml

STEPS = 4
CAPO = {
    "trainer": {"max_steps": STEPS, "log_every_n_steps": 1, "devices": 1},
    "model": {"init_args": {"credit": {"w_whole": 2.0, "w_process": 1.0, "estimator": "token_pooled"}}},
    "critique": {"judge": {"class_path": "GenPRM", "init_args": {"k": 4, "vote": "intersection"}}},
    "rollout": {"eval_samples": 8, "outcomes": None},
}
GRPO = {
    **CAPO,
    "model": {"init_args": {"credit": {"w_whole": 2.0, "w_process": 0.0, "estimator": "sequence"}}},
    "critique": {"judge": None},
}


def judged(k=4, vote="intersection", w_whole=2.0, w_process=1.0):
    """A CAPO config."""
    credit = {"w_whole": w_whole, "w_process": w_process, "estimator": "token_pooled"}
    judge = {
        "class_path": "GenPRM",
        "init_args": {"k": k, "vote": vote, "sampling": {"temperature": 0.0 if k == 1 else 1.0}},
    }
    return {**CAPO, "model": {"init_args": {"credit": credit}}, "critique": {"judge": judge}}


def curves(accuracy, steps=STEPS, judge=True, **more):
    """Accuracies at steps 0, 2, 4; each step samples 100 tokens in 6 s, and its judge reads 300 and writes 100."""
    evaluated = {2 * index: value for index, value in enumerate(accuracy) if 2 * index <= steps}
    every = {
        "rollout/tokens": 100.0,
        "rollout/length_mean": 10.0,
        "reward/token_mean": 0.5,
        "time/step_s": 6.0,
        **({"critique/judge_prompt_tokens": 300.0, "critique/judge_completion_tokens": 100.0} if judge else {}),
        **({"critique/wrong_step_frac": 0.25, "time/critique_s": 3.0} if judge else {}),
    }
    values = {
        "val/avg_at_k": evaluated,
        "val/greedy_accuracy": {step: value + 0.1 for step, value in evaluated.items()},
        "val/step_error_frac": {step: 1 - value for step, value in evaluated.items()},
        **{name: dict.fromkeys(range(1, steps + 1), value) for name, value in every.items()},
    }
    return {name: curve for name, curve in {**values, **more}.items() if curve is not None}


def write_run(folder: Path, config, values, seed=0, words=None) -> Path:
    """A run folder as `capo fit` leaves it, and as a job of a sweep if there are words; without values it failed."""
    folder.mkdir(parents=True)
    whole = {"seed_everything": seed, **config, "policy": "start"}
    whole["trainer"] = {**config["trainer"], "default_root_dir": str(folder)}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    if words is not None:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    if values:
        logs = folder / "csv" / "version_0"
        logs.mkdir(parents=True)
        with (logs / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "epoch", *values])
            writer.writeheader()
            for step in sorted({step for curve in values.values() for step in curve}):
                row = {name: curve[step] for name, curve in values.items() if step in curve}
                writer.writerow({"step": step, "epoch": 0, **row})
    return folder


def write_sweep(root: Path) -> Path:
    """CAPO and GRPO with seeds 1 to 3, a job that stopped at step 2 and one that never began."""
    ends = {"capo": (CAPO, (0.5, 0.6, 0.7)), "grpo_rule": (GRPO, (0.4, 0.45, 0.5))}
    job = 0
    for name, (config, finals) in ends.items():
        for seed, end in enumerate(finals, start=1):
            values = curves([0.2, 0.3, end], judge=config is CAPO)
            write_run(root / str(job), config, values, seed, [f"experiment={name}", f"seed={seed}", "scale=small"])
            job += 1
    broken = ["experiment=capo", "seed=4", "scale=small"]
    write_run(root / str(job), CAPO, curves([0.2, 0.3], steps=2), 4, broken)
    failed = write_run(root / str(job + 1), CAPO, None, 5, ["experiment=capo_union", "seed=5", "scale=small"])
    (failed / "result.json").write_text(json.dumps({"error": "exit status 1: no such judge", "seconds": 2.0}))
    return root
