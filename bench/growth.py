"""How the cost of a step grows: with the rollouts of a prompt, their length, the critiques k, and the parameters.

    .venv/bin/python bench/growth.py [--steps 4] [--out FOLDER]

Each of the four is doubled three times from one small step, everything else as it was, with real vLLM for the rollouts
and for the judge, whose model is the untrained policy: all its critiques are of full length and none can be read, so
that k of them are always asked. Responses are of nearly full length too. Growth is the mean power of two by which
seconds grow per doubling (1: in proportion). Then the largest step runs once more under cProfile, for the share of our
own arithmetic: credit, verifier, records and metrics. Writes growth.md and growth.png into FOLDER.
"""

import argparse
import json
import math
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from capo_lit.records.curves import Curve, read_curves

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
LIMIT_S = 1200
"""Of one run, seconds."""
NEVER = 10**6
WORDS = 2000
PHASES = ("rollout", "critique", "update", "sync", "step")


@dataclass(frozen=True)
class Step:
    """What one step does.

    Attributes:
        rollouts: of each of 4 prompts.
        new: tokens of a response.
        k: critiques of a rollout.
        layers: of the policy, of 0.2 million parameters each.
    """

    rollouts: int = 4
    new: int = 32
    k: int = 1
    layers: int = 4


AXES = {"rollouts": (4, 8, 16, 32), "new": (32, 64, 128, 256), "k": (1, 2, 4, 8), "layers": (4, 8, 16, 32)}
# Our own part of a step, by the function that it begins with.
OWN = {
    "credit": ("capo.py", "assign_credit"),
    "credit's metrics": ("capo.py", "credit_metrics"),
    "verifier": ("outcomes.py", "submit"),
    "records, in the training thread": ("record.py", "on_train_batch_end"),
    "a step": ("training_epoch_loop.py", "advance"),
}


def write_policy(folder: Path, layers: int) -> Path:
    """A random Llama over made-up words, which one token in two thousand ends, and problems of such words."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    if folder.exists():
        return folder
    vocabulary = {"<end>": 0, "<pad>": 1, "<unk>": 2, **{f"w{index}": index + 3 for index in range(WORDS)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    texts = [" ".join(f"w{(7 * row + word) % WORDS}" for word in range(16)) for row in range(64)]
    rows = [json.dumps({"problem": text, "answer": "1"}) for text in texts]
    (folder / "problems.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def words_of(step: Step, folder: Path, run: Path, steps: int) -> list[str]:
    """The arguments of `capo fit`."""
    policy = write_policy(folder / f"policy-{step.layers}", step.layers)
    judge = write_policy(folder / "judge", Step().layers)
    engine = {"model": str(judge), "dtype": "float32", "max_model_len": 1024, "max_num_seqs": 64, "kv_cache_gib": 0.25}
    settings = {
        "policy": policy, "trainer.default_root_dir": run, "trainer.max_steps": steps,
        "data.train": "capo_lit.FileSource", "data.train.path": policy / "problems.jsonl",
        "data.val": "capo_lit.FileSource", "data.val.path": policy / "problems.jsonl", "data.prompts_per_step": 4,
        "rollout.group_size": step.rollouts, "rollout.sampling.max_tokens": step.new,
        "rollout.outcomes": "capo_lit.NoisyOutcomes", "rollout.outcomes.error_rate": 0.5,
        "rollout.engine.max_model_len": 512, "rollout.engine.max_num_seqs": 64, "critique.judge": "capo_lit.GenPRM",
        "critique.judge.engine": json.dumps({"class_path": "capo_lit.VLLMEngine", "init_args": engine}),
        "critique.judge.k": step.k, "critique.judge.vote": "majority", "critique.judge.early_stop": "false",
        "critique.judge.sampling.max_tokens": 32, "critique.max_abstain_frac": 1.0, "validate_first": "false",
        "trainer.val_check_interval": NEVER, "checkpoint.every_n_steps": NEVER,
    }  # fmt: skip
    configs = ["--config", str(ROOT / "configs" / "quickstart.yaml")]
    return ["fit", *configs, *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]


def run_fit(before: Sequence[str], words: Sequence[str], log: Path) -> None:
    """`capo fit` in a process of its own.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, *before, "-m", "capo_lit.cli", *words]
    with log.open("w") as out:
        status = subprocess.run(command, stdout=out, stderr=out, timeout=LIMIT_S, check=False).returncode
    if status:
        raise SystemExit(f"capo fit ended with {status}:\n{log.read_text()[-3000:]}")


def medians(curves: Mapping[str, Curve]) -> dict[str, float]:
    """Seconds of the phases of a step after the warm-up."""
    found: dict[str, float] = {}
    for phase in PHASES:
        values = [value for _, value in sorted(curves.get(f"time/{phase}_s", {}).items())][WARM_UP:]
        found[phase] = statistics.median(values) if values else 0.0
    found["rest"] = max(0.0, found["step"] - sum(found[phase] for phase in PHASES[:-1]))
    return found


def own_shares(folder: Path, steps: int) -> list[tuple[str, float, float]]:
    """Of the largest step of the first axis: seconds of our own parts for each step, and their share of it."""
    largest = replace(Step(), rollouts=AXES["rollouts"][-1], k=AXES["k"][-2])
    profile = folder / "profile"
    words = words_of(largest, folder, folder / "profiled", steps + WARM_UP)
    run_fit(["-m", "cProfile", "-o", str(profile)], words, folder / "profile.log")
    spent: dict[str, float] = dict.fromkeys(OWN, 0.0)
    for (file, _, function), (_, _, _, cumulative, _) in pstats.Stats(str(profile)).stats.items():  # type: ignore[attr-defined]
        for name, (of, called) in OWN.items():
            if Path(file).name == of and function == called:
                spent[name] = max(spent[name], cumulative)
    whole = spent["a step"]
    return [(name, seconds / (steps + WARM_UP), seconds / whole) for name, seconds in spent.items()]


def growth(values: Sequence[float]) -> float:
    """Mean power of two per doubling; nan where there is nothing to compare."""
    first, last = values[0], values[-1]
    return math.log2(last / first) / (len(values) - 1) if min(first, last) > 0 else math.nan


def draw(found: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Seconds a step against each of the four, by phase."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(4 * len(found), 3.5), sharey=True)
    for ax, (axis, rows) in zip(axes, found.items(), strict=True):
        for phase in (*PHASES, "rest"):
            ax.plot(AXES[axis], [row[phase] for row in rows], marker="o", label=phase)
        ax.set(xscale="log", yscale="log", xlabel=axis, xticks=AXES[axis], xticklabels=AXES[axis])
        ax.minorticks_off()
    axes[0].set_ylabel("seconds a step")
    axes[-1].legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4, help="of a run that are measured")
    parser.add_argument("--out", type=Path, help="folder that gets growth.md and growth.png")
    args = parser.parse_args()
    lines = [f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the runs; seconds of a step, medians.\n"]
    found: dict[str, list[dict[str, float]]] = {}
    known: dict[Step, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for axis, values in AXES.items():
            lines += [f"| {axis} | {' | '.join((*PHASES, 'rest'))} |", f"|---:|{'---:|' * (len(PHASES) + 1)}"]
            for value in values:
                step = Step(**asdict(Step()) | {axis: value})
                if step not in known:
                    run = folder / f"run-{time.time_ns()}"
                    run_fit([], words_of(step, folder, run, args.steps + WARM_UP), folder / "log")
                    known[step] = medians(read_curves(run))
                found.setdefault(axis, []).append(known[step])
                lines.append(f"| {value} | {' | '.join(f'{known[step][phase]:.3g}' for phase in (*PHASES, 'rest'))} |")
                print(lines[-1], flush=True)
            powers = (growth([row[phase] for row in found[axis]]) for phase in (*PHASES, "rest"))
            lines += [f"| growth | {' | '.join(f'{power:.2f}' for power in powers)} |", ""]
        shares = own_shares(folder, args.steps)
    lines += ["| under cProfile | seconds a step | share |", "|---|---:|---:|"]
    lines += [f"| {name} | {seconds:.4f} | {share:.2%} |" for name, seconds, share in shares]
    print("\n".join(lines))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "growth.md").write_text("\n".join(lines) + "\n")
        draw(found, args.out / "growth.png")


if __name__ == "__main__":
    main()
