"""A problem and the steps of its solution -> the chat messages in which the judge reads them."""

import re
from collections.abc import Sequence
from pathlib import Path

from capo_lit.core.errors import ConfigError
from capo_lit.genprm.neutral import neutralise
from capo_lit.genprm.prompts import Template, load_template

_NONCE = re.compile(r"[A-Za-z0-9_-]*")


def step_tag(index: int, nonce: str, index_base: int = 0) -> tuple[str, str]:
    """The delimiters of one step.

    Args:
        index: 0-based step.
        nonce: what the policy cannot guess; letters, digits, `_` and `-`, or "".
        index_base: the number the judge sees on the first step, 0 or 1.

    Returns:
        Opening and closing tag. In the messages of `render_messages` with the same nonce and base, the opening tag of
        each step occurs once, whatever the texts contain.

    Raises:
        ConfigError: if the nonce has other characters.
    """
    return _tags(str(index + index_base), nonce)


def _tags(number: str, nonce: str) -> tuple[str, str]:
    if not _NONCE.fullmatch(nonce):
        raise ConfigError(f"the nonce {nonce!r}", "letters, digits, _ and - only", "step_tag", "nonce")
    # Apart from the number, so that no judge takes the nonce for a part of it.
    name = f"step_{number} key={nonce}" if nonce else f"step_{number}"
    return f"<{name}>", f"</{name}>"


def render_messages(
    problem: str,
    steps: Sequence[str],
    reference: str | None = None,
    nonce: str = "",
    template: Template | str | Path | None = None,
) -> list[dict[str, str]]:
    """The prompt of one critique.

    The texts are another model's or a data file's, so they are neutralised: none of them can open or close a step or
    hold a chat-template control token. The judge sees exactly len(steps) steps.

    Args:
        problem: the problem's text.
        steps: s texts, as they were split; neither merged nor dropped here.
        reference: reference answer or solution; None leaves it out.
        nonce: part of every tag; see `step_tag`.
        template: a loaded template or the path of one; the packaged one by default.

    Returns:
        Chat messages with the keys role and content: one user turn, which every chat template knows.

    Raises:
        ConfigError: if the template cannot be used, its need of a reference differs from what is given, or the nonce
            is not allowed.
    """
    if not isinstance(template, Template):
        template = load_template(template, reference is not None)
    if template.reference != (reference is not None):
        got = "a reference" if reference is not None else "no reference"
        raise ConfigError(got, "one exactly if the template has {reference}", template.where, "reference")
    base, example = template.index_base, _tags("N", nonce)
    values = {
        "problem": neutralise(problem).strip(),
        "steps": "\n".join(_block(step, step_tag(index, nonce, base)) for index, step in enumerate(steps)),
        "reference": neutralise(reference or "").strip(),
        "step_count": _step_count(len(steps), base),
        "example_open": example[0],
        "example_close": example[1],
    }
    return [{"role": "user", "content": template.fill(values)}]


def _block(step: str, tags: tuple[str, str]) -> str:
    # The blank lines that separate steps belong to the step before them; the judge need not see them.
    text = neutralise(step).strip("\r\n").rstrip()
    return f"{tags[0]}\n{text}\n{tags[1]}"


def _step_count(count: int, index_base: int) -> str:
    if count == 0:
        return "no steps"
    if count == 1:
        return f"1 step, numbered {index_base}"
    return f"{count} steps, numbered {index_base} to {count - 1 + index_base}"
