"""A finished step as a table of records, one row per rollout."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch

from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout, TokenTable
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.records.schema import SCHEMA, SCHEMA_VERSION, with_settings


def batch_table(batch: StepBatch, run: str, rank: int = 0, settings: Mapping[str, Any] | None = None) -> pa.Table:
    """The rows of one finished step.

    Args:
        batch: with rollouts; with verdicts if a judge was asked, and with credit if they were trained on.
        run: name of the run, in every row.
        rank: of this process.
        settings: that the credit was computed under, as `schema.settings_of` names them; kept in the file's metadata.

    Returns:
        Table of SCHEMA, rows in row order; lists over tokens cover the response alone, without padding.

    Raises:
        BatchError: if there are no rollouts, or the credit is of another shape than they are.
    """
    rollouts = batch.require_rollouts()
    verdicts = batch.require_verdicts() if batch.has_verdicts else (None,) * len(rollouts)
    per_token = {}
    if batch.has_credit:
        credit = batch.require_credit()
        _check_shape(rollouts, credit, batch.step)
        per_token = {
            "trainer_logprobs": _numpy(credit.logprobs),
            "step_of_token": _numpy(credit.step_of_token),
            "token_rewards": _numpy(credit.token_rewards),
            "advantages": _numpy(credit.advantages),
        }
    shared = {"schema_version": SCHEMA_VERSION, "run": run, "step": batch.step, "rank": rank}
    rows = []
    for index, (rollout, critiqued) in enumerate(zip(rollouts, verdicts, strict=True)):
        length = len(rollout.completion.ids)
        tokens = {name: values[index, :length] for name, values in per_token.items()}
        rows.append({**shared, **_rollout_columns(rollout), **_verdict_columns(critiqued), **tokens})
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return with_settings(table, [{"run": run, "step": batch.step, **settings}] if settings else [])


def _rollout_columns(rollout: Rollout) -> dict[str, Any]:
    prompt, completion = rollout.prompt, rollout.completion
    return {
        "row": rollout.row,
        "group": rollout.group,
        "sample": rollout.sample,
        "uid": _utf8(prompt.uid),
        "problem": _utf8(prompt.problem),
        "answer": _utf8(prompt.answer),
        "reference": None if prompt.reference is None else _utf8(prompt.reference),
        "prompt_ids": prompt.ids,
        "response_ids": completion.ids,
        "pieces": [_utf8(piece) for piece in completion.pieces],
        "special": completion.special,
        "text": _utf8(completion.text),
        "finish_reason": completion.finish_reason,
        "policy_version": completion.version,
        "engine_logprobs": completion.logprobs,
        "outcome": rollout.outcome,
        "spans": [{"start": start, "end": end} for start, end in rollout.spans],
        "seconds": completion.seconds,
        "outcome_critiques": [_critique_struct(one) for one in rollout.outcome_critiques] or None,
    }


def _verdict_columns(critiqued: CritiquedRollout | None) -> dict[str, Any]:
    if critiqued is None:
        return {}
    verdict = critiqued.verdict
    return {
        "step_error": verdict.step_error,
        "valid": verdict.valid,
        "abstained": verdict.abstained,
        "agreement": verdict.agreement,
        "critiques": [_critique_struct(critique) for critique in critiqued.critiques],
    }


def _critique_struct(critique: Critique) -> dict[str, Any]:
    wrong = None if critique.wrong is None else sorted(critique.wrong)
    return {**asdict(critique), "reply": _utf8(critique.reply), "cause": _utf8(critique.cause), "wrong": wrong}


def _check_shape(rollouts: Sequence[Rollout], credit: TokenTable, step: int) -> None:
    longest = max((len(rollout.completion.ids) for rollout in rollouts), default=0)
    rows, width = credit.advantages.shape
    if rows != len(rollouts) or width < longest:
        raise BatchError(
            f"credit of shape {(rows, width)}", f"{len(rollouts)} rows of at least {longest} tokens", f"step {step}"
        )


def _numpy(values: torch.Tensor) -> Any:
    """On the CPU, as float32 or int64 (numpy has no bfloat16)."""
    return values.detach().cpu().to(torch.float32 if values.is_floating_point() else torch.int64).numpy()


def _utf8(text: str) -> str:
    """Lone surrogates, which a judge's JSON may hold and UTF-8 cannot, become "?"; the length stays."""
    return text.encode("utf-8", "replace").decode("utf-8")
