"""What tests of the GenPRM share: a solution of three steps, and one call that judges and tidies up."""

from capo_lit.batch.facts import CritiquedRollout, Prompt, Rollout
from capo_lit.engines.base import Request
from capo_lit.genprm.judge import GenPRM
from tests.support.scripted_engine import ScriptedEngine, completion

SEED = 11
SOLUTION = "First.\n\nSecond.\n\nThird."  # three steps


def rollout(row: int = 0, text: str = SOLUTION, sample: int = 0, reference: str | None = None) -> Rollout:
    prompt = Prompt(f"task/{row}", f"problem {row}", (1, 2), answer="GOLD", reference=reference)
    return Rollout(row, 0, sample, prompt, completion(text), outcome=1.0)


def judged(
    engine: ScriptedEngine, rollouts: list[Rollout], seed: int = SEED, **settings: object
) -> list[CritiquedRollout]:
    result = list(GenPRM(engine, **settings).judge(rollouts, seed))
    assert engine.in_flight == []
    return sorted(result, key=lambda item: item.rollout.row)


def content(request: Request) -> str:
    (message,) = request.prompt
    assert message["role"] == "user"
    return message["content"]
