"""The vocabulary of a pocket judge of the built-in arithmetic, and a random small Llama that is to become one."""

from pathlib import Path
from typing import TYPE_CHECKING

from capo_lit.arithmetic.critiques import NOTHING, OK, WRONG
from capo_lit.arithmetic.model import BOS, EOS, PAD, wrap_tokenizer, write_initial_model
from capo_lit.arithmetic.task import BOX, MAX_OPERAND, MAX_VALUE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MAX_STEPS = 20
UNKNOWN = "<unk>"
# A step may be redone from any number that was written, -MAX_VALUE (as in 7-3=-4) to MAX_VALUE. A sign and its number
# are one token: the operation of step i is then the token i places into the problem, which a model of two layers looks
# up there instead of copying what the step says.
_LARGEST = MAX_VALUE + MAX_OPERAND
NUMBERS = (
    *(f"{sign}{value}" for sign in ("", "+", "-") for value in range(_LARGEST + 1)),
    *(f"={value}" for value in range(-_LARGEST, _LARGEST + 1)),
)
WORDS = (
    *NUMBERS,
    *("+", "-", "=", "?", ",", "}", BOX, f"\n{BOX}", OK, WRONG, NOTHING),
    *(f"<{close}step_{index}>" for index in range(MAX_STEPS) for close in ("", "/")),
    "0:",
    *(f"\n{index}:" for index in range(1, MAX_STEPS)),
)
# What the judge does not read: the template's prose (lines that begin with a heading's mark or a capital letter), the
# nonces, and the white space between what is left. A step keeps both its tags: it is then as many tokens as its line
# of the critique, which a model of two layers learns far sooner.
_UNREAD = (r"^[#A-Z].*$", r" key=[^<>\n]*(?=>)", r"\A\s+(?=[0-9])|\s+(?=<)|(?<=>)\s+|\s+\z")
_PIECES = rf"</?step_[0-9]+>|\n?[0-9]+:|\n?\\boxed\{{|=-?[0-9]+|[+-]?[0-9]+|{OK}|{WRONG}|{NOTHING}|."
# The user's message as it is: this judge knows no roles.
_CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def build_judge_tokenizer() -> "PreTrainedTokenizerFast":
    """The pocket judge's tokenizer: what render_messages gives becomes the problem, the steps, and nothing else.

    Returns:
        A fast tokenizer with a chat template, one token per number with its sign, step tag and line start; decoding
        inserts no spaces. Text of neither the task nor the template becomes an ordinary token for the unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate((PAD, BOS, EOS, UNKNOWN, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex(unread), "") for unread in _UNREAD])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    # The unknown is not declared special: a control token must not come from text.
    tokenizer = wrap_tokenizer(backend)
    tokenizer.chat_template = _CHAT
    return tokenizer


def write_initial_judge(path: str | Path, seed: int = 0) -> Path:
    """`write_initial_model` with the pocket judge's tokenizer; arguments, result and errors are those."""
    return write_initial_model(path, seed, tokenizer=build_judge_tokenizer())
