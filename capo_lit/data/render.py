"""Problems into token ids: the chat template or a plain one, with the problem's text kept from being control tokens."""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from capo_lit.core.errors import ConfigError, DataError, EngineError, one_line
from capo_lit.engines.base import Message
from capo_lit.engines.chat import render_chat, template_errors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{problem}"
INSTRUCTION = (
    "{problem}\n\nPlease reason step by step, with a blank line between steps, and put your final answer in \\boxed{}."
)
_HOLE = "\ue000problem\ue001"  # private-use characters, which a chat template leaves alone
_REPLY_HOLE = "\ue002reply\ue003"
_SYSTEM_HOLE = "\ue004system\ue005"


@dataclass
class PromptTemplate:
    """How a problem becomes a prompt.

    Args:
        style: "chat" renders the tokenizer's chat template with `text` as the user's message; "plain" is `text` alone.
        text: has {problem} exactly once; every other brace stands for itself. Of a row that brings a chat, the last
            user turn is the problem; "{problem}" alone leaves it as it is.
        system: the chat's system message; null for none. A row that brings a chat with one keeps its own.
    """

    style: Literal["chat", "plain"] = "chat"
    text: str = INSTRUCTION
    system: str | None = None

    def __post_init__(self) -> None:
        if self.text.count(PLACE) != 1:
            raise ConfigError(
                f"{self.text.count(PLACE)} times {PLACE} in {self.text!r}", "it once", "PromptTemplate", "template.text"
            )
        if self.style not in ("chat", "plain"):
            raise ConfigError(f"style '{self.style}'", "'chat' or 'plain'", "PromptTemplate", "template.style")
        if self.style == "plain" and self.system is not None:
            raise ConfigError("a system message", "none with style 'plain'", "PromptTemplate", "template.system")


class Renderer:
    """Renders problems and responses with one tokenizer and one template.

    A problem that spells a special token of the tokenizer (or another added token in angle brackets) is cut inside
    it before tokenisation, so that its text stays text. Every other problem is tokenised in one piece with its
    surroundings, as the chat template itself would be.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: how a problem becomes a prompt.

    Raises:
        ConfigError: if style "chat" is asked of a tokenizer that has no chat template, or of one that refuses or drops
            the system message or the problem.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate) -> None:
        self._tokenizer, self._template = tokenizer, template
        self._control = _control_tokens(tokenizer)
        self._pattern = re.compile("|".join(f"(?={re.escape(token)})" for token in self._control) or r"(?!)")
        if template.style == "chat":
            self._head, self._tail, end = _chat_parts(tokenizer, template)
            self._start: tuple[int, ...] = ()  # a chat template writes its own beginning-of-sequence token
            end_ids = self._encode(end.lstrip())[:1]
        else:
            self._head, self._tail = template.text.split(PLACE)
            self._start = _automatic_start(tokenizer, self._head)
            end_ids = ()
        eos = tokenizer.eos_token_id
        if eos is None:
            raise ConfigError("a tokenizer without eos_token", "one that ends its responses", change="tokenizer")
        special = end_ids and end_ids[0] in set(self._control.values())
        self._end: tuple[int, ...] = end_ids if special else (eos,)

    def prompt(self, problem: str) -> tuple[int, ...]:
        """Token ids of the prompt for a problem.

        Raises:
            DataError: if the problem's text cannot be encoded, or not be kept apart from control tokens.
        """
        return self._start + self._untrusted(self._head, problem.strip(), self._tail)

    def chat(self, turns: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of the prompt for a problem that is a chat, by the tokenizer's chat template.

        Args:
            turns: its messages; the last is the user's, and goes through the template's text as a problem does.

        Raises:
            DataError: if the style is plain, the chat template refuses the roles, or a control token would remain.
        """
        if self._template.style == "plain":
            roles = ", ".join(turn["role"] for turn in turns)
            raise DataError(f"a chat of turns {roles}", "one text, with style plain", change="data.template.style chat")
        text = self._template.text.replace(PLACE, turns[-1]["content"].strip())
        messages = [*turns[:-1], {"role": "user", "content": text}]
        if self._template.system is not None and turns[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self._template.system})
        try:
            return render_chat(self._tokenizer, messages, self._tokenizer.name_or_path)
        except EngineError as error:
            raise DataError(error.got, error.expected, error.where, error.change or "the row's chat") from error

    def response(self, text: str) -> tuple[int, ...]:
        """Token ids of a response that follows a prompt, the end token included."""
        return self._untrusted("", text, "") + self._end

    def _encode(self, text: str) -> tuple[int, ...]:
        try:
            return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        except Exception as error:  # the tokenizers library raises nothing narrower
            got = f"a text that its tokenizer cannot encode ({error}): {text[:80]!r}"
            raise DataError(got, "words that the policy knows", "prompt or response", "data, or policy") from error

    def _untrusted(self, head: str, text: str, tail: str) -> tuple[int, ...]:
        cuts = [found.start() + 1 for found in self._pattern.finditer(text)]
        if not cuts:
            return self._encode(head + text + tail)
        bounds = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
        pieces[0], pieces[-1] = head + pieces[0], pieces[-1] + tail
        ids = tuple(i for piece in pieces for i in self._encode(piece))
        control = set(self._control.values())
        own = self._encode(head) + self._encode(tail)
        if sum(i in control for i in ids) != sum(i in control for i in own):
            raise DataError(f"control tokens in the text {text[:80]!r}", "plain text", change="remove the row")
        return ids


def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> Mapping[str, int]:
    """Tokens that structure a chat: the special ones, and added ones that look like tags."""
    return {
        str(token): index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special or re.fullmatch(r"<.+>", str(token))
    }


def _chat_parts(tokenizer: "PreTrainedTokenizerBase", template: PromptTemplate) -> tuple[str, str, str]:
    """What the chat template writes before the problem, after it, and after the reply."""
    if not tokenizer.chat_template:
        raise ConfigError("a tokenizer without a chat template", "one that has it", change="template.style plain")
    user = {"role": "user", "content": template.text.replace(PLACE, _HOLE)}
    reply = {"role": "assistant", "content": _REPLY_HOLE}
    system = [{"role": "system", "content": template.system}] if template.system is not None else []
    prompt = _templated(tokenizer, [*system, user], template)
    dialogue = _templated(tokenizer, [*system, user, reply], template)
    if system:
        # A mark tells whether the message is written, whatever a template says of its own accord.
        marked = _templated(tokenizer, [{"role": "system", "content": _SYSTEM_HOLE}, user], template)
        if _SYSTEM_HOLE not in marked:
            raise _no_system("drops the system message")
    if prompt.count(_HOLE) != 1:
        raise ConfigError(
            f"a chat template that writes the user's message {prompt.count(_HOLE)} times",
            "it once",
            change="template.style plain",
        )
    head, tail = prompt.split(_HOLE)
    return head, tail, dialogue.partition(_REPLY_HOLE)[2]


def _templated(tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, str]], template: PromptTemplate) -> str:
    """The text of messages; the generation prompt is added unless the last is a reply."""
    open_end = messages[-1]["role"] != "assistant"
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=open_end))
    except template_errors() as error:
        reason = one_line(error)
        if template.system is not None:
            raise _no_system(f"fails on messages with a system message ({reason})") from error
        raise ConfigError(
            f"a chat template that fails ({reason})",
            "one that renders a user's message and a reply",
            "the policy's tokenizer",
            "data.template.style plain, or --policy",
        ) from error


def _no_system(what: str) -> ConfigError:
    return ConfigError(
        f"a chat template that {what}",
        "one that writes it",
        "the policy's tokenizer",
        "data.template.system null, with its words at the head of data.template.text",
    )


def _automatic_start(tokenizer: "PreTrainedTokenizerBase", head: str) -> tuple[int, ...]:
    """The beginning-of-sequence token, if this tokenizer adds one and the template does not write it itself."""
    bos = tokenizer.bos_token_id
    if bos is None or head.startswith(str(tokenizer.bos_token)):
        return ()
    return (bos,) if tokenizer("")["input_ids"][:1] == [bos] else ()
