"""Comparison without algebra: equal texts, exact rational numbers, letters, clocks; nothing is ever evaluated.

It settles most answers in the training process. What it cannot tell is left to math-verify.
"""

import re
from fractions import Fraction

from capo_lit.verifier.normal import Form, normalise
from capo_lit.verifier.units import disagree

AGREEING_DIGITS = 6
"""A decimal stands for a number that has no such decimal if it agrees with it in this many significant digits, and in
as many decimal places."""


def compare_exact(gold: str, answer: str) -> bool | None:
    """Compare two answers as texts and as exact rational numbers.

    Equal in one spelling, or equal numbers ("025" and "25", "1,200" and "1200.0", "1/2" and "0.5", "3 1/2" and "7/2",
    "101_2" and "5", "0.(3)" and "1/3", "20%" and "20", "75%" and "3/4"): right. Two different numbers, words or clock
    times, and two known units that differ: wrong. Everything else is left to the caller.

    Args:
        gold: the gold answer.
        answer: the final answer of a response.

    Returns:
        True, False, or None if this comparison cannot tell.
    """
    if gold.split() == answer.split():
        return bool(gold.strip())
    left, right = normalise(gold), normalise(answer)
    if not left.text or not right.text:
        return bool(left.whole) and tight(left.whole) == tight(right.whole)
    if tight(left.whole) == tight(right.whole):
        return True
    if disagree(left.unit, right.unit):
        return False
    choice = _choices(left.text, right.whole)
    return choice if choice is not None else _compare(left, right)


def answer_key(answer: str) -> str:
    """What an answer is counted under in a majority vote: one key for equal text and for equal rational numbers.

    Units, percent signs and mark-up do not count. No algebra is done: two forms of one formula have two keys.
    """
    form = normalise(answer)
    value = number(form.text)
    if value is not None:
        return str(value)
    return tight(form.text or form.whole).casefold()


def is_settled(form: Form) -> bool:
    """Whether an answer is a number, a clock time or words, so that every comparison with its like is settled here."""
    return any((number(form.text) is not None, _CLOCK.fullmatch(form.text), _WORDS.fullmatch(form.text)))


def tight(text: str) -> str:
    """Without the blanks and braces that mean nothing; "1 2" stays apart from "12"."""
    return _LOOSE_BLANK.sub("", _LOOSE_BRACES.sub(r"\1", text))


_LOOSE_BLANK = re.compile(r"(?<![0-9]) | (?![0-9])")
_LOOSE_BRACES = re.compile(r"(?<![A-Za-z}\]])\{([A-Za-z0-9]+)\}(?!\{)")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-5][0-9])(?::([0-5][0-9]))?")
_CHOICE = re.compile(r"\(?([A-J])(?:\)[.:]?|[.:])\s*(\S.*)", re.DOTALL)
_BRACKETED = re.compile(r"[(\[](.*)[)\]]")
_OPTION = re.compile(r"(?:option|choice|answer)\s+\(?([A-J])\)?", re.IGNORECASE)
_WORDS = re.compile(r"[^\W\d_]{4,}|[^\W\d_]+(?:[ '-][^\W\d_]+)+")


def _choices(gold: str, answer: str) -> bool | None:
    """Compare with the letter or with the text of an answer such as "(B) 72"; None if it is no such answer."""
    if option := _OPTION.fullmatch(answer):
        return option[1] == gold if re.fullmatch("[A-J]", gold) else None
    found = _CHOICE.fullmatch(answer)
    if found is None:
        return None
    if re.fullmatch("[A-J]", gold):
        return found[1] == gold
    return compare_exact(gold, found[2])


def _compare(left: Form, right: Form) -> bool | None:
    clocks = _CLOCK.fullmatch(left.text), _CLOCK.fullmatch(right.text)
    if any(clocks):
        return all(clocks) and _hands(left.text) == _hands(right.text)
    if _WORDS.fullmatch(left.text) and _WORDS.fullmatch(right.text):
        return left.text.casefold() == right.text.casefold()
    if left.text.isalpha() and right.text.isalpha() and left.text.casefold() == right.text.casefold():
        return len(left.text) > 1  # yes and Yes, but not the variables x and X
    for one, other in ((left.text, right.text), (right.text, left.text)):
        if _GROUPED.fullmatch(one) and (listed := _BRACKETED.fullmatch(other)) and "," in listed[1]:
            return tight(one) == tight(listed[1])  # 100,200 beside (100,200) is a pair, not a number
    a, b = number(left.text), number(right.text)
    if a is None or b is None:
        return None
    return any(_same_number(x, y) for x, y in _readings((a, left), (b, right)))


def _hands(text: str) -> list[int]:
    return [int(part) for part in text.split(":")]


Side = tuple[Fraction, Form]


def _readings(left: Side, right: Side) -> list[tuple[Side, Side]]:
    """Pairs to compare: beside a number without one, a percent sign may mean hundredths or only name the unit."""
    pairs = [(left, right)]
    if (left[1].unit == "%") != (right[1].unit == "%"):
        a, b = ((value / 100 if form.unit == "%" else value, form) for value, form in (left, right))
        pairs.append((a, b))
    return pairs


def _same_number(left: Side, right: Side) -> bool:
    (a, one), (b, other) = left, right
    return a == b or _rounded(a, one.text, b) or _rounded(b, other.text, a)


def _rounded(decimal: Fraction, text: str, exact: Fraction) -> bool:
    """Whether a decimal is another number, which no decimal can be, rounded to enough digits."""
    found = _DECIMAL.fullmatch(text)
    if found is None or not found[2] or decimal.denominator == 1 or _ends(exact):
        return False
    places, digits = len(found[2]), len((found[1] + found[2]).lstrip("+-0"))
    if min(places, digits) < AGREEING_DIGITS:
        return False
    return abs(decimal - exact) * 2 <= Fraction(1, 10**places)


def _ends(value: Fraction) -> bool:
    """Whether a number can be written as a decimal that ends."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


_DECIMAL = re.compile(r"([+-]?[0-9]{0,60})\.?([0-9]{0,60})")
_GROUPED = re.compile(r"([+-]?[0-9]{1,3}(?:,[0-9]{3}){1,20})((?:\.[0-9]{0,60})?)")
_SIMPLE = r"[0-9]{1,60}(?:\.[0-9]{1,60})?"
_RATIO = re.compile(rf"([+-]?)(?:\\frac\{{([+-]?{_SIMPLE})\}}\{{([+-]?{_SIMPLE})\}}|({_SIMPLE})/({_SIMPLE}))")
_MIXED = re.compile(r"([+-]?)([0-9]{1,60})\\frac\{([0-9]{1,60})\}\{([0-9]{1,60})\}")
_POWER_OF_TEN = re.compile(
    r"([+-]?(?:[0-9]{1,60}\.?[0-9]{0,60}|\.[0-9]{1,60})(?:\\times|\\cdot|\*))?10\^(?:\{([+-]?[0-9]{1,3})\}|([0-9]))"
)
_REPEATING = re.compile(r"([+-]?)([0-9]{0,60})\.([0-9]{0,60})(?:\\(?:overline|bar)\{([0-9]{1,60})\}|\(([0-9]{1,60})\))")
_DOTTED = re.compile(r"([+-]?)([0-9]{0,60})\.([0-9]{0,60}?)((?:\\dot\{?[0-9]\}?[0-9]*){1,2})")
_GOES_ON = re.compile(r"([+-]?[0-9]{0,60}\.[0-9]{3,60})(?:\\l?dots|\\cdots|\.\.\.)")
_BASE = re.compile(
    r"([+-]?)([0-9A-Za-z]{1,200})_\{?\s*(?:base\s*)?([0-9]{1,2}|two|three|eight|ten|twelve|sixteen)\s*\}?"
)
_NAMED_BASES = {"two": 2, "three": 3, "eight": 8, "ten": 10, "twelve": 12, "sixteen": 16}


def number(text: str) -> Fraction | None:
    """The rational number that a text in its one spelling writes; None if it writes none, or needs arithmetic."""
    text = text.replace(" ", "") if not re.search("[0-9] [0-9]", text) else text
    if found := _GROUPED.fullmatch(text):
        text = found[1].replace(",", "") + found[2]
    if re.search("[0-9]", text) and _DECIMAL.fullmatch(text):
        return Fraction(text.removesuffix("."))
    for read in (_ratio, _mixed, _power_of_ten, _repeating, _numeral):
        if (value := read(text)) is not None:
            return value
    return None


def _ratio(text: str) -> Fraction | None:
    found = _RATIO.fullmatch(text)
    if found is None:
        return None
    top, bottom = Fraction(found[2] or found[4]), Fraction(found[3] or found[5])
    return None if bottom == 0 else (-top if found[1] == "-" else top) / bottom


def _mixed(text: str) -> Fraction | None:
    found = _MIXED.fullmatch(text)
    if found is None or not 0 < int(found[3]) < int(found[4]):
        return None
    value = int(found[2]) + Fraction(int(found[3]), int(found[4]))
    return -value if found[1] == "-" else value


def _power_of_ten(text: str) -> Fraction | None:
    found = _POWER_OF_TEN.fullmatch(text)
    if found is None:
        return None
    factor = Fraction(re.sub(r"\\times|\\cdot|\*", "", found[1]).removesuffix(".")) if found[1] else Fraction(1)
    return factor * Fraction(10) ** int(found[2] or found[3])


def _repeating(text: str) -> Fraction | None:
    if found := _REPEATING.fullmatch(text):
        sign, whole, start, block = found[1], found[2], found[3], found[4] or found[5]
    elif found := _DOTTED.fullmatch(text):
        sign, whole, start, block = found[1], found[2], found[3], re.sub(r"[^0-9]", "", found[4])
    elif found := _GOES_ON.fullmatch(text):
        return _goes_on(found[1])
    else:
        return None
    tail = Fraction(int(block), 10 ** len(start) * (10 ** len(block) - 1))
    value = Fraction(int((whole + start) or "0"), 10 ** len(start)) + tail
    return -value if sign == "-" else value


def _goes_on(text: str) -> Fraction | None:
    """0.333...: the shortest block that ends the digits at least three times over, or twice if it is long."""
    whole, digits = text.split(".")
    for length in range(1, len(digits) // 2 + 1):
        block, times = digits[-length:], 3 if length == 1 else 2
        if digits.endswith(block * times):
            sign, whole = ("-" if whole.startswith("-") else ""), whole.lstrip("+-")
            return _repeating(f"{sign}{whole}.{digits[:-length]}\\overline{{{block}}}")
    return None


def _numeral(text: str) -> Fraction | None:
    found = _BASE.fullmatch(text)
    if found is None:
        return None
    base = _NAMED_BASES.get(found[3]) or int(found[3])
    if not 2 <= base <= 36 or not re.search("[0-9]|[A-Z]{2}", found[2]):  # a_{11} is a variable
        return None
    try:
        value = int(found[2], base)
    except ValueError:  # a digit that the base has not
        return None
    return Fraction(-value if found[1] == "-" else value)
