"""A batch with rollouts and verdicts as plain data, for a checkpoint, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from capo_lit.batch.facts import Completion, Critique, CritiquedRollout, Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.core.votes import Verdict

State = dict[str, Any]


def batch_state(batch: StepBatch) -> State:
    """Everything of a batch but its prompts and its credit: dicts, lists, numbers and strings."""
    verdicts = batch.require_verdicts() if batch.has_verdicts else None
    return {
        "step": batch.step,
        "sampling": asdict(batch.sampling or Sampling()),
        "rollout_seconds": batch.rollout_seconds,
        "critique_seconds": batch.critique_seconds,
        "outcome_counts": dict(batch.outcome_counts),
        "rows": [_row(rollout) for rollout in batch.require_rollouts()],
        "verdicts": None if verdicts is None else [_verdict(item) for item in verdicts],
    }


def restored(states: Sequence[State], prompts: Sequence[Prompt], step: int) -> StepBatch:
    """A batch from the states of one step that the processes of a run saved, however many they were.

    Args:
        states: of all of them.
        prompts: of this process.
        step: of the batch.

    Raises:
        BatchError: if that is another step, or a prompt has no rollouts in it.
    """
    rows: dict[str, list[tuple[State, State | None]]] = {}
    for state in states:
        for place, row in enumerate(state["rows"]):
            verdict = None if state["verdicts"] is None else state["verdicts"][place]
            rows.setdefault(row["uid"], []).append((row, verdict))
    missing = [prompt.uid for prompt in prompts if prompt.uid not in rows]
    steps = sorted({int(state["step"]) for state in states})
    if missing or steps != [step]:
        raise BatchError(
            f"a checkpoint with rollouts of step {steps}, and none of {len(missing)} prompts {missing[:3]}",
            f"those of step {step}",
            change="the data and --data.prompts_per_step back to what they were, or start without --ckpt_path",
        )
    batch = StepBatch(prompts, step)
    rollouts: list[Rollout] = []
    verdicts: list[CritiquedRollout] = []
    for group, prompt in enumerate(prompts):
        for row, verdict in sorted(rows[prompt.uid], key=lambda found: int(found[0]["sample"])):
            rollouts.append(_rollout(row, len(rollouts), group, prompt))
            if verdict is not None:
                verdicts.append(_critiqued(verdict, rollouts[-1]))
    batch.set_rollouts(rollouts, Sampling(**states[0]["sampling"]))
    if verdicts:
        batch.set_verdicts(verdicts)
    batch.require_rollouts()
    batch.rollout_seconds = max(state["rollout_seconds"] for state in states)
    batch.critique_seconds = max(state["critique_seconds"] for state in states)
    batch.outcome_counts = dict(states[0]["outcome_counts"])
    return batch


def _row(rollout: Rollout) -> State:
    completion = {name: _plain(value) for name, value in asdict(rollout.completion).items()}
    return {
        "uid": rollout.prompt.uid,
        "sample": rollout.sample,
        "outcome": rollout.outcome,
        "greedy": rollout.greedy,
        "spans": _plain(rollout.spans),
        "completion": completion,
        "outcome_critiques": [_critique(one) for one in rollout.outcome_critiques],
    }


def _rollout(row: State, place: int, group: int, prompt: Prompt) -> Rollout:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in row["completion"].items()}
    return Rollout(
        row=place,
        group=group,
        sample=row["sample"],
        prompt=prompt,
        completion=Completion(**fields),
        outcome=row["outcome"],
        greedy=row["greedy"],
        spans=tuple((start, end) for start, end in row["spans"]),
        outcome_critiques=tuple(_critique_of(one) for one in row["outcome_critiques"]),
    )


def _verdict(item: CritiquedRollout) -> State:
    verdict = {name: _plain(value) for name, value in asdict(item.verdict).items()}
    return {"critiques": [_critique(one) for one in item.critiques], "verdict": verdict}


def _critiqued(state: State, rollout: Rollout) -> CritiquedRollout:
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in state["verdict"].items()}
    return CritiquedRollout(rollout, tuple(_critique_of(one) for one in state["critiques"]), Verdict(**fields))


def _critique(critique: Critique) -> State:
    wrong = None if critique.wrong is None else sorted(critique.wrong)
    return {**asdict(critique), "wrong": wrong}


def _critique_of(state: Mapping[str, Any]) -> Critique:
    wrong = state["wrong"]
    return Critique(**{**state, "wrong": None if wrong is None else frozenset(wrong)})


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value
