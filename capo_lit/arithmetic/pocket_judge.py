"""The pocket judge: a small Llama trained to critique the built-in arithmetic, and how well it finds wrong steps."""

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from capo_lit.arithmetic.critiques import ArithmeticCritiqueSource
from capo_lit.arithmetic.judge import check_steps
from capo_lit.batch.facts import Completion, CritiquedRollout, Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.votes import VoteRule, tally
from capo_lit.evaluation.judging.step_scores import StepScores, step_scores
from capo_lit.genprm.base import step_texts
from capo_lit.genprm.judge import GenPRM

log = logging.getLogger(__name__)
_MAX_TOKENS = 64


def held_out(size: int, seed: int = 1) -> Iterator[Rollout]:
    """Solutions of test problems, about half of them with planted errors, as rollouts that a judge takes."""
    source = ArithmeticCritiqueSource(size, seed, split="test")
    for row, (problem, steps) in enumerate(source.solutions()):
        text = "\n\n".join(steps)
        completion = Completion(str(row), (1,), (text,), (False,), text, None, "stop", 1, None, 0.0)
        yield Rollout(row, row, 0, Prompt(f"held out {row}", problem, (1,), ""), completion, 1.0)


def scores(judged: Sequence[CritiquedRollout], vote: VoteRule) -> StepScores:
    """The measure of recorded critiques under a vote."""
    found, silent = [], []
    for item in judged:
        critiques = [critique.wrong for critique in item.critiques]
        truth = check_steps(item.rollout.prompt.problem, step_texts(item.rollout.completion.text, item.spans))
        found.append((tally(critiques, len(item.spans), vote).step_error, truth))
        silent += [wrong is None for wrong in critiques]
    return step_scores(found, statistics.mean(silent))


def measure_judge(model: Path, size: int, k: int, temperature: float) -> dict[str, StepScores]:
    """Critique held-out solutions with vLLM and score every vote; one sampling serves all votes but greedy.

    It is done under the average vote, which no critique settles before the last.
    """
    from capo_lit.engines.vllm import VLLMEngine

    engine = VLLMEngine(str(model), dtype="float32", max_model_len=256, max_num_seqs=128, kv_cache_gib=0.25)
    try:
        sampled = GenPRM(engine, k=k, vote="average", sampling=Sampling(temperature, max_tokens=_MAX_TOKENS))
        greedy = GenPRM(engine, k=1, vote="greedy", sampling=Sampling(temperature=0.0, max_tokens=_MAX_TOKENS))
        started = time.monotonic()
        judged = list(sampled.judge(held_out(size), seed=0))
        seconds = time.monotonic() - started
        log.info("%d critiques in %.1f s; one of them:\n%s", size * k, seconds, judged[0].critiques[0].reply)
        result = {vote: scores(judged, vote) for vote in get_args(VoteRule) if vote != "greedy"}
        return result | {"greedy": scores(list(greedy.judge(held_out(size), seed=0)), "greedy")}
    finally:
        engine.close()
