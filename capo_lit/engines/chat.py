"""Chat messages -> token ids, such that no text in a message can become a control token."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONTROLS: "WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, int]]" = WeakKeyDictionary()


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", prompt: tuple[int, ...] | tuple[Message, ...], model: str
) -> tuple[int, ...]:
    """Token ids of a request's prompt, rendered with the tokenizer's chat template if it is messages.

    Args:
        tokenizer: of the model.
        prompt: ids, returned as they are, or chat messages.
        model: name of the model, for the error.

    Raises:
        EngineError: if the prompt is empty, or messages cannot be rendered.
    """
    if not prompt:
        raise EngineError("an empty prompt", "at least one token or message", model)
    if all(isinstance(item, int) for item in prompt):
        return tuple(int(item) for item in prompt if isinstance(item, int))
    return render_chat(tokenizer, [item for item in prompt if not isinstance(item, int)], model)


def render_chat(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], model: str) -> tuple[int, ...]:
    """Token ids of chat messages, ending where the assistant's turn begins.

    Text that spells a control token (a special or other added token, "<|im_end|>") stays text: the rendered prompt is
    cut inside every such place in a message's content, and the parts are tokenised apart, so that the tokenizer never
    sees the whole word. Text without one is tokenised exactly as the template's authors meant.

    Raises:
        EngineError: if there is no chat template, it refuses the messages, or a control token would remain.
    """
    if not tokenizer.chat_template:
        raise EngineError(
            "a tokenizer without a chat template",
            "one that renders chat messages",
            model,
            "take an instruction-tuned model, or give prompts as token ids",
        )
    mark = _unused_mark(messages)
    safe = [{**message, "content": _disarm(tokenizer, message["content"], mark, model)} for message in messages]
    try:
        text = tokenizer.apply_chat_template(safe, tokenize=False, add_generation_prompt=True)
    except template_errors() as error:
        roles = [message.get("role") for message in messages]
        raise EngineError(
            f"a chat template that fails: {error}", "one that takes these roles", f"{model}, {roles}"
        ) from error
    if any(message.get("role") == "system" and message["content"].strip() not in str(text) for message in safe):
        raise EngineError(
            "a chat template that drops the system message",
            "one that writes it",
            model,
            "the judge's template (its system message into the user's), or the model",
        )
    return tuple(index for part in str(text).split(mark) for index in _encode(tokenizer, part))


def _disarm(tokenizer: "PreTrainedTokenizerBase", content: str, mark: str, model: str) -> str:
    """Put `mark` into every control word of a text."""
    controls = _controls(tokenizer)
    if not controls or not _holds_control(tokenizer, content):
        return content
    longest_first = sorted(controls, key=len, reverse=True)
    words = re.compile("|".join(re.escape(word) for word in longest_first))
    # After its first character: what is left of a word is no word of its own in any vocabulary that we know of.
    safe = words.sub(lambda match: match.group()[:1] + mark + match.group()[1:], content)
    if any(_holds_control(tokenizer, part) for part in safe.split(mark)):
        raise EngineError("a message with a control token that cannot be spelt as text", "plain text", model)
    return safe


def _holds_control(tokenizer: "PreTrainedTokenizerBase", text: str) -> bool:
    return not set(_controls(tokenizer).values()).isdisjoint(_encode(tokenizer, text))


def _controls(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Every special token, and every other added token that is longer than a letter or white space ("<think>")."""
    if tokenizer not in _CONTROLS:
        added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items()}
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        words = {word: index for word, index in added.items() if len(word.strip()) > 1}
        _CONTROLS[tokenizer] = words | {word: index for word, index in special.items() if word.strip()}
    return _CONTROLS[tokenizer]


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return [int(index) for index in tokenizer.encode(text, add_special_tokens=False)]


def _unused_mark(messages: Sequence[Message]) -> str:
    """A word that no message holds; letters only, so that templates pass it on."""
    everything = "".join(message["content"] for message in messages)
    mark = "CapoCutsHere"
    while mark in everything:
        mark += "x"
    return mark


def template_errors() -> tuple[type[Exception], ...]:
    """What a chat template raises that does not take the messages."""
    from jinja2 import TemplateError

    errors: tuple[Any, ...] = (TemplateError, TypeError, ValueError)
    return errors
