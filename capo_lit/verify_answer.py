"""What counts as the answer of a response, and the cheap exact comparison; nothing is ever evaluated.

The part of the verifier that imports nothing heavy, so that its worker processes start fast.
"""

import re
from fractions import Fraction
from typing import NamedTuple

ANSWER_CHARS = 1000
"""A longer answer is no final answer: it is wrong without being parsed."""
NESTING = 50
"""Deeper brackets than this are no final answer either."""
BARE_CHARS = 200
"""The longest response that can be a bare answer, and the longest answer in a sentence."""


class Answer(NamedTuple):
    """The final answer of a response.

    Attributes:
        text: the answer, without its box or marker.
        prose: whether it stood in a sentence ("the answer is 42 apples") and not in a box.
    """

    text: str
    prose: bool


_HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
_SENTENCE = re.compile(rf"\banswer(?:[ \t]+is[ \t]*:?|[ \t]*:)[ \t]*(\S[^\n]{{0,{BARE_CHARS}}})", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_INLINE = re.compile(r"\$([^$]+)\$")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


def final_answer(response: str, bare: bool = True) -> Answer | None:
    """The answer that a response gives: the last marked one.

    In this order: the content of the last `\\boxed{...}`; the rest of the last line that starts with `####`; what
    follows the last "answer is" or "answer:"; with `bare`, the whole response if it is one short line without words.
    A last box that is empty or never closed is no answer, whatever stands before it.

    Args:
        response: the policy's text.
        bare: whether a response that is nothing but an answer counts.

    Returns:
        The answer, or None if there is none.
    """
    if "\\boxed" in response:
        content = last_box(response)
        return Answer(content, prose=False) if content else None
    if lines := _HASHES.findall(response):
        return _in_prose(lines[-1])
    if sentences := _SENTENCE.findall(response):
        return _in_prose(_SENTENCE_END.split(sentences[-1], maxsplit=1)[0])
    text = response.strip()
    if bare and text and len(text) <= BARE_CHARS and "\n" not in text and not _WORD.search(_unwrap(text)):
        return Answer(text, prose=False)
    return None


def last_box(text: str) -> str | None:
    """Content of the last `\\boxed{...}`; None if there is no box, or the last one never closes."""
    start = text.rfind("\\boxed")
    return _braced(text, start + len("\\boxed")) if start >= 0 else None


def gold_answer(gold: str) -> str:
    """The answer inside a gold text: its last box, or what follows its last `####`, or all of it."""
    if "\\boxed" in gold:
        return last_box(gold) or ""
    lines = _HASHES.findall(gold)
    return str(lines[-1] if lines else gold).strip()


def is_oversized(text: str) -> bool:
    """Whether a text is too long or too deeply bracketed to be a final answer."""
    if len(text) > ANSWER_CHARS:
        return True
    depth = 0
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if depth > NESTING:
            return True
    return False


def compare_exact(gold: str, answer: str) -> bool | None:
    """Compare two answers as text and as exact rational numbers.

    Equal after removal of markup and blanks, or equal numbers ("025" and "25", "1,200" and "1200.0", "1/2" and
    "0.5"): right. Two different plain decimal numbers: wrong. Everything else is left to the caller.

    Returns:
        True, False, or None if this comparison cannot tell.
    """
    left, right = _plain(gold), _plain(answer)
    if not left or not right:
        return False
    if _tight(left) == _tight(right):
        return True
    if left.isalpha() and right.isalpha() and min(len(left), len(right)) > 1 and left.casefold() == right.casefold():
        return True
    a, b = _number(left), _number(right)
    if a is not None and a == b:
        return True
    if _DECIMAL.fullmatch(left) and _DECIMAL.fullmatch(right):
        return False
    return None


def answer_key(answer: str) -> str:
    """What an answer is counted under in a majority vote: one key for equal text and for equal rational numbers.

    No algebra is done: two forms of one formula have two keys.
    """
    plain = _plain(answer)
    number = _number(plain)
    return _tight(plain).casefold() if number is None else str(number)


def _braced(text: str, start: int) -> str | None:
    """Content of the balanced braces that open at `start` (blanks before them allowed); None if they never close."""
    while start < len(text) and text[start].isspace():
        start += 1
    if start >= len(text) or text[start] != "{":
        return None
    depth, index = 0, start
    while index < len(text):
        char = text[index]
        if char == "\\":  # an escaped brace is no bracket
            index += 2
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start + 1 : index].strip()
        index += 1
    return None


def _in_prose(text: str) -> Answer | None:
    inline = _INLINE.search(text)
    if inline:
        return Answer(inline[1].strip(), prose=False)
    text = text.strip().strip("*").strip()
    return Answer(text, prose=bool(_WORD.search(_unwrap(text)))) if text else None


_MARKUP = re.compile(r"\\[()\[\]!,;:]|\\(?:left|right|displaystyle)(?![A-Za-z])|(?<!\\)\$")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}")
_LOOSE_BLANK = re.compile(r"(?<![0-9]) | (?![0-9])")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]{1,60}(?:\.[0-9]{0,60})?|\.[0-9]{1,60})")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3}){1,20}(?:\.[0-9]{0,60})?")
_RATIO = re.compile(r"([+-]?)(?:\\frac\{([+-]?[0-9]{1,60})\}\{([0-9]{1,60})\}|([0-9]{1,60})/([0-9]{1,60}))")


def _unwrap(text: str) -> str:
    return _TEXT.sub(r"\1", text)


def _plain(text: str) -> str:
    """Without markup that does not change the value; blanks collapsed to one space."""
    text = text.replace("{,}", ",").replace("\\ ", " ").replace("~", " ").replace("\u2212", "-").replace("\\%", "%")
    text = _unwrap(_MARKUP.sub("", text)).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = " ".join(text.split()).removesuffix(".").removeprefix("\\$").strip()
    letter = _LETTER.fullmatch(text)
    return letter[1] if letter else text


def _tight(text: str) -> str:
    """Without the blanks that mean nothing; "1 2" stays apart from "12"."""
    return _LOOSE_BLANK.sub("", text)


def _number(text: str) -> Fraction | None:
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if _DECIMAL.fullmatch(text):
        return Fraction(text.removesuffix("."))
    ratio = _RATIO.fullmatch(text.replace(" ", ""))
    if ratio is None:
        return None
    top, bottom = int(ratio[2] or ratio[4]), int(ratio[3] or ratio[5])
    if bottom == 0:
        return None
    return Fraction(-top if ratio[1] == "-" else top, bottom)
