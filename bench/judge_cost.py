"""What k critiques of G rollouts cost a generative judge in vLLM: prompt tokens, prefix cache, early stop by vote rule.

    .venv/bin/python bench/judge_cost.py [--k 4] [--rounds 3]   # after `capo prepare quickstart` and `pocket_judge`

The quickstart's policy samples 8 rollouts of each of 8 problems, once. Then the pocket judge votes on them by every
rule: all k critiques to their end; with early stop; and with early stop and half of them started first. Read is what it
was asked to read, computed what the prefix cache did not have, written what its critiques wrote, aborted ones included.
Verdicts must be those of the full vote. Medians of some rounds, each with other seeds; the arms take turns. At the end,
both engines in this process: rollouts alone, judged after the last, and judged as they finish.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from parts import planned_rollouts

from capo_lit.batch.facts import CritiquedRollout, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.votes import VOTES, VoteRule
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.training.rollouts import stream_rollouts
from capo_lit.verifier.pool import Verifier

MOST = 40  # tokens of a response
JUDGED = Sampling(temperature=0.5, max_tokens=64)


def judged(
    engine: VLLMEngine, rollouts: Sequence[Rollout], seed: int, judge: GenPRM
) -> tuple[dict[str, float], list[CritiquedRollout]]:
    """One vote on all of them: its figures, and the verdicts by row."""
    before = engine.prompt_tokens, engine.cached_tokens, engine.aborted_tokens
    started = time.perf_counter()
    found = sorted(judge.judge(rollouts, seed), key=lambda one: one.rollout.row)
    seconds = time.perf_counter() - started
    read, cached = engine.prompt_tokens - before[0], engine.cached_tokens - before[1]
    wrote = sum(critique.completion_tokens for one in found for critique in one.critiques)
    wrote += engine.aborted_tokens - before[2]
    return {"read": read, "computed": read - cached, "written": wrote, "seconds": seconds}, found


def arms(engine: VLLMEngine, k: int) -> dict[str, Callable[[VoteRule], GenPRM]]:
    """The three ways to ask."""
    half = max(1, k // 2)
    return {
        "full": lambda vote: GenPRM(engine, k=k, vote=vote, sampling=JUDGED, early_stop=False),
        "early stop": lambda vote: GenPRM(engine, k=k, vote=vote, sampling=JUDGED),
        f"{half} first": lambda vote: GenPRM(engine, k=k, vote=vote, sampling=JUDGED, first_wave=half),
    }


def compare(engine: VLLMEngine, rollouts: Sequence[Rollout], k: int, rounds: int) -> Iterator[str]:
    """The rows of the table.

    Raises:
        SystemExit: if a vote that was stopped early is another one.
    """
    ways = arms(engine, k)
    rules: list[VoteRule] = [rule for rule in VOTES if rule != "greedy"]
    judged(engine, rollouts, rounds, ways["full"](rules[0]))  # warm-up
    for rule in rules:
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for seed in range(rounds):
            verdicts = {}
            for name, make in ways.items():
                figures, found = judged(engine, rollouts, seed, make(rule))
                rows[name].append(figures)
                verdicts[name] = [one.verdict.step_error for one in found]
            if any(verdict != verdicts["full"] for verdict in verdicts.values()):
                raise SystemExit(f"{rule}: another verdict than the full vote's")
        whole = {name: statistics.median(row[name] for row in rows["full"]) for name in ("written", "seconds")}
        for name, found_rows in rows.items():
            middle = {figure: statistics.median(row[figure] for row in found_rows) for figure in found_rows[0]}
            shares = " | ".join(f"{middle[figure] / whole[figure]:.0%}" for figure in whole)
            counts = " | ".join(f"{middle[figure]:.0f}" for figure in ("read", "computed", "written"))
            yield f"| {rule} | {name} | {counts} | {middle['seconds']:.2f} | {shares} |"


def together(policy: VLLMEngine, judge: GenPRM, verifier: Verifier, name: str, seed: int) -> float:
    """Seconds of rollouts alone, judged after the last, or judged as they finish; both engines are in this process."""
    plan = planned_rollouts(policy.tokenizer, MOST, seed)
    started = time.perf_counter()
    stream: Iterator[Rollout] | list[Rollout] = stream_rollouts(policy, verifier, plan)
    if name != "as they finish":
        stream = list(stream)
    if name != "rollouts alone":
        list(judge.judge(stream, seed))
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", type=Path, default="runs/quickstart/sft/policy")
    parser.add_argument("--judge", type=Path, default="runs/pocket_judge/sft/policy")
    args = parser.parse_args()
    policy = VLLMEngine(str(args.policy), dtype="float32", max_model_len=128, max_num_seqs=64, kv_cache_gib=0.1)
    engine = VLLMEngine(str(args.judge), dtype="float32", max_model_len=256, max_num_seqs=128, kv_cache_gib=0.2)
    with Verifier() as verifier:
        rollouts = list(stream_rollouts(policy, verifier, planned_rollouts(policy.tokenizer, MOST, 0)))
        print(f"{len(rollouts)} rollouts, {args.k} critiques of each; load {os.getloadavg()[0]:.1f}")
        print("| vote | asked | read | computed | written | seconds | of written | of seconds |")
        print("|---|---|---:|---:|---:|---:|---:|---:|")
        for row in compare(engine, rollouts, args.k, args.rounds):
            print(row, flush=True)
        judge = GenPRM(engine, k=args.k, sampling=JUDGED)
        ways = ("rollouts alone", "after the last", "as they finish")
        times: dict[str, list[float]] = {name: [] for name in ways}
        for seed in range(args.rounds):
            for name in ways:
                times[name].append(together(policy, judge, verifier, name, seed))
        print("both engines here: " + ", ".join(f"{name} {statistics.median(times[name]):.2f} s" for name in ways))
    policy.close()
    engine.close()


if __name__ == "__main__":
    main()
