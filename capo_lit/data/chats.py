"""Chat messages in a row: what is the prompt of them, what the reply, and how a person reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

from capo_lit.core.errors import DataError
from capo_lit.engines.base import Message

ROLES = ("system", "user", "assistant")


def is_chat(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role."""
    return (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(v, Mapping) and "role" in v for v in value)
    )


def prompt_turns(value: Sequence[Mapping[str, Any]], where: str, setting: str) -> tuple[Message, ...]:
    """The messages up to the last one of the user; a reply that follows it is no part of the prompt.

    Raises:
        DataError: if a message cannot be read, or the user says nothing.
    """
    messages = _messages(value, where, setting)
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)
    if last < 0 or not messages[last]["content"].strip():
        raise DataError("a chat without a user's turn", "one that the policy answers", where, setting)
    return messages[: last + 1]


def reply_text(value: Sequence[Mapping[str, Any]], where: str, setting: str) -> str:
    """The text of the last assistant turn.

    Raises:
        DataError: if a message cannot be read, or the chat does not end on such a turn.
    """
    messages = _messages(value, where, setting)
    if messages[-1]["role"] != "assistant":
        raise DataError(f"a chat that ends on a turn of '{messages[-1]['role']}'", "the assistant's", where, setting)
    return messages[-1]["content"]


def readable(turns: Sequence[Message]) -> str:
    """A prompt for a reader, such as the judge: the user's words, or all turns by name if there are several.

    The system message is left out: it says how to answer, and not what was asked.
    """
    spoken = [turn for turn in turns if turn["role"] != "system"]
    if len(spoken) == 1:
        return spoken[0]["content"]
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content'].strip()}" for turn in spoken)


def _messages(value: Sequence[Mapping[str, Any]], where: str, setting: str) -> tuple[Message, ...]:
    messages = []
    for message in value:
        role, content = message["role"], message.get("content")
        if role not in ROLES:
            raise DataError(f"a message of '{role}'", f"one of {', '.join(ROLES)}", where, setting)
        messages.append({"role": role, "content": _content(content, where, setting)})
    return tuple(messages)


def _content(content: Any, where: str, setting: str) -> str:
    """A message's text; parts of it are joined by line ends."""
    if isinstance(content, list | tuple):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                raise DataError(f"the part {str(part)[:60]!r} of a message", "parts of text", where, setting)
        return "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise DataError(f"a message with {type(content).__name__} for content", "text", where, setting)
    return content
