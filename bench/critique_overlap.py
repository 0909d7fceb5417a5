"""How much of a slow judge's time hides behind the rollouts? One step with and without streaming, in one run.

    .venv/bin/python bench/critique_overlap.py [--seconds 2] [--rounds 3]

The policy is the quickstart's small Llama (untrained) in the real vLLM, with so few slots that its rollouts finish one
after another, as those of a batch larger than the engine's do. The judge is a loopback server that takes a fixed time
per critique and works on 16 at a time. The same rollouts (same seeds) are judged once after all have finished, and once
as each finishes.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from parts import GROUP, judge_server, planned_rollouts

from capo_lit.arithmetic.model import build_tokenizer, write_initial_model
from capo_lit.batch.facts import Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.training.rollouts import stream_rollouts
from capo_lit.verifier.pool import Verifier

SLOTS = 2
AT_ONCE = 16
MOST = 100  # tokens of a response


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one critique")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    model = write_initial_model(Path(folder.name) / "model")
    engine = VLLMEngine(str(model), dtype="float32", max_model_len=200, max_num_seqs=SLOTS, kv_cache_gib=0.1)
    times: dict[str, list[float]] = {"rollouts alone": [], "then the judge": [], "streamed": []}
    with judge_server(args.seconds) as url, Verifier() as verifier:
        judge = GenPRM(HTTPEngine("slow", [url], max_concurrency=AT_ONCE), k=1, vote="union", early_stop=False)
        list(stream_rollouts(engine, verifier, planned_rollouts(build_tokenizer(), MOST, 0)[:GROUP]))  # warm-up
        for round_ in range(args.rounds):
            for name in times:
                batch = StepBatch([], round_)
                started = time.perf_counter()
                batch.set_rollouts(stream_rollouts(engine, verifier, planned_rollouts(build_tokenizer(), MOST, round_)))
                rollouts: Iterator[Rollout] = batch.stream_rollouts()
                if name != "streamed":
                    rollouts = iter(batch.require_rollouts())
                if name != "rollouts alone":
                    batch.set_verdicts(judge.judge(rollouts, round_))
                times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:16s} {median[name]:6.2f} s   (of {', '.join(f'{value:.2f}' for value in values)})")
    exposed = median["then the judge"] - median["rollouts alone"]
    hidden = (median["then the judge"] - median["streamed"]) / exposed
    print(f"judge's time after the rollouts {exposed:.2f} s, of which streaming hides {hidden:.0%}")


if __name__ == "__main__":
    main()
