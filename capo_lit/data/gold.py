"""Gold answers inside a text. A number is taken whole or not at all: of 3/4, 10-3 and 1,2 no part is the answer."""

import ast
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Literal

from capo_lit.core.errors import DataError
from capo_lit.data.values import plain
from capo_lit.verifier.exact import answer_key

Extraction = Literal["none", "gsm8k", "boxed", "last_number"]

_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
_DIGITS = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
_CURRENCY = r"(?:\\?[$\u20ac\u00a3\u00a5])?"
_NUMBER = re.compile(
    rf"{_CURRENCY}([+-]?){_CURRENCY}(?=\.?[0-9])({_DIGITS})?(\.[0-9]+)?(?:[eE]([+-]?[0-9]{{1,3}}))?(%?)"
)
_FRACTION = re.compile(r"\+?(-?[0-9]+/[0-9]+)")
_E_NOTATION = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][+-]?[0-9]{1,3}")
_GROUPED = re.compile(r"(?<![0-9,.])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?!,?[0-9])")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BARE = re.compile(r"(?:\\[()\[\]]|\s|\$|$)")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_NO_NUMBER = re.compile(r"[+-]?(?:nan|inf)", re.IGNORECASE)


def straight(text: str) -> str:
    """A text with ASCII digits and full-width signs as ASCII, and one minus sign for hyphens and Unicode's minus."""
    return text if text.isascii() else "".join(map(_ascii, text.translate(_DASHES)))


def _ascii(char: str) -> str:
    if "\uff01" <= char <= "\uff5e":
        return chr(ord(char) - 0xFEE0)
    return str(unicodedata.decimal(char)) if unicodedata.category(char) == "Nd" else char


def read_number(text: str) -> str | None:
    """The number that a text is, plainly written, or None if it is not exactly one.

    Commas between groups of three, a plus and a currency sign go; an exponent is written out; a fraction stays one,
    and so does a percentage: "$1,200" is "1200", ".5" is "0.5", "1e-3" is "0.001", "20%" is "20%".
    """
    text = straight(text).strip().replace("\\%", "%")
    if fraction := _FRACTION.fullmatch(text):
        return fraction[1]
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    sign, whole, decimals, exponent, percent = found.groups()
    number = f"{sign.replace('+', '')}{(whole or '0').replace(',', '')}{decimals or ''}"
    return (plain(Decimal(f"{number}e{exponent}")) if exponent else number) + percent


def whole_text(text: str) -> list[str]:
    """The text; several answers if it is a list of texts, ["3", "5"], as JSON or Python writes it.

    Raises:
        DataError: if it is what a program writes for a number that is none (nan, inf).
    """
    text = text.strip()
    if text[:2] in ('["', "['") and text[-2:] in ('"]', "']"):
        return [item.strip() for item in _listed(text)]
    if _NO_NUMBER.fullmatch(text):
        raise DataError(f"the text '{text}'", "an answer")
    return [(_E_NOTATION.fullmatch(text) and read_number(text)) or text]


def _listed(text: str) -> list[str]:
    for read in (json.loads, ast.literal_eval):  # neither runs anything
        try:
            items = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and all(isinstance(item, str) for item in items):
            return items
    raise DataError(f"the text {text[:60]!r}", "a list of texts, if it begins like one")


def after_hashes(text: str) -> list[str]:
    """What follows the last ####: as a number if it is one, else as it is."""
    found = _HASHES.findall(text)
    if not found:
        return []
    rest = straight(found[-1]).strip()
    if not rest:
        return []
    number = read_number(rest.removesuffix("."))
    if number is None and not set(rest) & set("([{"):
        return [_GROUPED.sub(lambda grouped: grouped[0].replace(",", ""), rest)]
    return [rest if number is None else number]


def all_boxes(text: str) -> list[str]:
    r"""What stands in each \boxed{...} or \fbox{...} of a text, in order; a box without braces ends at a blank or $.

    Raises:
        DataError: if a box is empty or never closes.
    """
    boxes, start = [], 0
    while found := _BOX.search(text, start):
        content, start = (
            _braced(text, found.end()) if text.startswith("{", found.end()) else _unbraced(text, found.end())
        )
        inner = all_boxes(content) if _BOX.match(content) else []
        if not content:
            raise DataError(f"the box {text[found.start() :][:40]!r}", "one with content that closes")
        boxes.append(inner[0] if len(inner) == 1 else content)
    return boxes


def _braced(text: str, start: int) -> tuple[str, int]:
    """Content of the braces that open at `start`, and where they end; "" if they never do."""
    depth, index = 0, start
    while index < len(text):
        char = text[index]
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return text[start + 1 : index].strip(), index + 1
        index += 2 if char == "\\" else 1  # an escaped brace is no bracket
    return "", len(text)


def _unbraced(text: str, start: int) -> tuple[str, int]:
    """What a box without braces holds; "" where its end cannot be told (\\boxed \\frac 1 2)."""
    end = _BARE.search(text, start)
    stop = end.start() if end else len(text)
    content = text[start:stop].rstrip(".,;:")
    torn = content.count("{") != content.count("}") or re.search(r"\\[A-Za-z]*$", content)
    return ("" if torn else content), stop


def different(answers: Sequence[str]) -> list[str]:
    """The answers without those that are equal to one before, as text or as rational numbers."""
    first: dict[str, str] = {}
    for answer in answers:
        first.setdefault(answer_key(answer), answer)
    return list(first.values())


def last_number(text: str) -> list[str]:
    """The last number of a text.

    Raises:
        DataError: if it is a part of something larger: a difference, a pair, a power, a number with a unit to it.
    """
    lines = [line for line in _readable(text).splitlines() if any(map(_is_digit, line))]
    if not lines:
        return []
    words = lines[-1].split()
    at = max(index for index, word in enumerate(words) if any(map(_is_digit, word)))
    before, after = " ".join(words[:at][-1:]), " ".join(words[at + 1 :][:1])
    number = None if _PAIR.match(words[at]) else read_number(_bare(words[at]))
    ends = words[at][-1] in ".;:"
    if number is None or _leads_on(before) or (_GOES_ON.match(after) and not ends):
        form = " ".join(filter(None, (before, words[at], after)))
        raise DataError(f"{form[-60:]!r} around the last number", "a number that stands by itself")
    return [number]


_PAIR = re.compile(r"[(\[{].*,")  # (1,200) may be a pair
_SIGN = r"[-+*/^\u00d7\u00f7\u00b7\u2219\u00b1\u221a<>\u2264\u2265\u2260|]"
_COMMAND = r"\\(?:times|cdot|div|pm|mp|le|leq|ge|geq|ne|neq|sqrt|lt|gt)(?![A-Za-z])"
_LEADS_ON = re.compile(rf"(?:.*(?:{_SIGN}|[<>!]=|{_COMMAND}|[0-9)\]}}][,;]|\w\()|[xX])\$?")
_GOES_ON = re.compile(
    rf"{_SIGN}|{_COMMAND}|[!\u03c0]|\\(?:pi|frac)|x(?![a-z])"
    r"|(?:hundred|thousand|million|billion|trillion|dozen|squared|cubed|factorial|pi)\b",
    re.IGNORECASE,
)
# In order: what is no part of the text's meaning goes, and a form with blanks in it becomes one word.
_READ = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (r"<<[^<>]*>>|</?[A-Za-z][^<>]*>|\\!", ""),
        (r"\{,\}", ","),
        (r"\\[,;: ]|\\quad", " "),
        (r"(?<=[\w)}])\\[dt]?frac", r" \\frac"),
        (r"\\[dt]?frac\{(-?[0-9]+)\}\{([0-9]+)\}", r"\1/\2"),
        (r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r" \1 "),
        (r"\\(?:boxed|fbox)(?![A-Za-z])", " "),
        (r"(?<=\d)[ \t]*(?:\\?%|per ?cent\b)", "%"),
        (r"(?<=\d)[ \t]*/[ \t]*(?=\d)", "/"),
        (r"(?<![<>!=])[=\u2248](?!=)", " = "),
        (r"(?<=[^\W\d]):(?=[-+.$\d])", ": "),
    )
)


def _readable(text: str) -> str:
    text = straight(text)
    for pattern, by in _READ:
        text = pattern.sub(by, text)
    return text


def _is_digit(char: str) -> bool:
    """Whether a character stands for a number: 7, and also ² and ½."""
    return char.isdecimal() or unicodedata.category(char) == "No"


def _bare(word: str) -> str:
    """A word without brackets, emphasis, quotes and the sentence's punctuation around it."""
    return word.lstrip("([{\"'*_`#$~\u201c\u2018\\").rstrip(")]}\"'*_`.,;:?$\u20ac\u00a3\u00a5\u00b0\u201d\u2019\\")


def _leads_on(before: str) -> bool:
    """Whether a word and the number after it are one form: 5 -, (1, or another number."""
    if _LEADS_ON.fullmatch(before):
        return True
    return bool(before) and before[-1] not in ".:?" and read_number(_bare(before)) is not None


EXTRACTIONS: Mapping[Extraction, Callable[[str], list[str]]] = {
    "none": whole_text,
    "gsm8k": after_hashes,
    "boxed": lambda text: different(all_boxes(text)),
    "last_number": last_number,
}
"""How the gold answers are found in a text, by name; none found is an empty list."""
