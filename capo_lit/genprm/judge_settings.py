"""Settings of a GenPRM that contradict each other, refused before anything is asked."""

from typing import get_args

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, check_settings
from capo_lit.core.votes import VoteRule
from capo_lit.engines.base import Engine
from capo_lit.genprm.prompts import Template


def check_votes(k: int, vote: VoteRule, sampling: Sampling, deadline_s: float) -> None:
    """Refuse values that are none, and votes that cannot be taken."""
    greedy = sampling.temperature == 0
    checks = (
        (k >= 1, f"k {k}", "at least 1 critique", "k"),
        (vote in get_args(VoteRule), f"vote {vote!r}", f"one of {', '.join(get_args(VoteRule))}", "vote"),
        (deadline_s > 0, f"deadline_s {deadline_s}", "a number of seconds > 0", "deadline_s"),
        (
            vote != "greedy" or (k == 1 and greedy),
            f"vote greedy with k {k} and temperature {sampling.temperature}",
            "k 1 and temperature 0",
            "k and sampling.temperature, or vote",
        ),
        (
            k == 1 or not greedy,
            f"k {k} at temperature 0",
            "a temperature > 0, since k critiques at 0 are one critique k times",
            "sampling.temperature, or k 1",
        ),
    )
    check_settings(checks, "GenPRM")


def check_wave(first_wave: int | None, k: int, early_stop: bool) -> None:
    """Refuse a first wave that is none of k critiques."""
    checks = (
        (
            first_wave is None or 1 <= first_wave <= k,
            f"first_wave {first_wave}",
            f"1 to k = {k}, or null",
            "first_wave",
        ),
        (
            first_wave is None or early_stop,
            f"first_wave {first_wave} without early_stop",
            "early_stop true, for without it all k are always asked",
            "early_stop, or first_wave null",
        ),
    )
    check_settings(checks, "GenPRM")


def check_schema(template: Template, engine: Engine) -> None:
    """Refuse a template whose schema the engine would not keep."""
    if template.schema is not None and not engine.takes_schema:
        raise ConfigError(
            f"a template with a JSON schema, and {type(engine).__name__}, which cannot hold a reply to one",
            "an engine with structured outputs (VLLMEngine, HTTPEngine), or free replies",
            template.where,
            "the judge's engine, or its template: boxed, or a file without a line `schema: ...`",
        )
