"""Units, percent signs and moduli at the end of an answer: what they are, and whether two of them disagree."""

import re

_KNOWN: dict[str, str] = {
    alias: aliases.split()[0]
    for aliases in """
        $ usd dollar buck|c cent ¢|eur € euro|gbp £|yen ¥ yuan rmb cny|inr ₹ rupee rs
        mm millimeter millimetre|cm centimeter centimetre|m meter metre|km kilometer kilometre
        in inch inches|ft foot feet|yd yard|mi mile
        mg milligram|g gram|kg kilogram kilo|tonne|lb lbs|oz ounce
        ms millisecond|s sec second|min minute|h hr hrs hour|day|week|month|year yr
        ml mL milliliter millilitre|l L liter litre|gal gallon
        mph|deg degree|rad radian|Hz hertz|J joule|N newton|W watt|kW kilowatt|V volt|Pa pascal|mol mole
        am a.m. a.m AM|pm p.m. p.m PM|celsius °C|fahrenheit °F|kelvin
    """.replace("\n", "|").split("|")
    for alias in aliases.split()
}
_SHORT = {alias for alias in _KNOWN if len(alias) == 1 and alias.isalpha()}

# After a number these are part of the value, of an expression or of a sentence, and no unit.
_NO_UNIT = frozenset(
    # One word a line would hide the list.
    """
    and or to not is are was than if else for over plus times minus mod divided multiplied by of between
    from until nor but hundred thousand million billion trillion dozen half halves third thirds quarter
    quarters fourth fourths fifth fifths tenth tenths hundredth hundredths thousandth thousandths sin
    cos tan cot sec csc log ln exp sqrt max gcd lcm base squared cubed factorial remainder more less
    fewer percent print return lambda import while def true false none null unknown wrong incorrect
    """.split()  # noqa: SIM905
)

_PERCENT = re.compile(
    r"(?<=[0-9}.)])\s*(?:\\?%|(?:percent(?:age)?|pct|per cent)(?![A-Za-z]))(?!\s*[0-9A-Za-z(\\{]|\s*\()", re.IGNORECASE
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z]))\s*([CF](?![A-Za-z]))?")
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))|\(\s*\\?(?:bmod|mod)\s+([^()]*)\)|,?\s*\\?(?:bmod|mod)(?![A-Za-z])\s*\{?([0-9A-Za-z]+)\}?)$"
)
_CURRENCY = re.compile(r"^([+-]?)\s*(?:US\s*)?(\\\$|USD|[€£¥₹])\s*(?=[0-9.(\\])")
_MONEY_BEHIND = re.compile(r"(?<=[0-9])\s*(\\\$|[€£¥₹¢])$")
_MAGNITUDE = re.compile(r"^([+-]?[0-9][0-9.,]*)\s+(hundred|thousand|million|billion|trillion)(?![A-Za-z])")
_POWERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_WORD_UNIT = re.compile(r"(?<=[0-9})\]i])(?P<gap>\s*)(?P<unit>[A-Za-z][A-Za-z./^0-9{}²³ -]*)$")
_COUNTER = re.compile(r"(?<=[0-9])\s*(?:个|元|人|米|厘米|千米|公里|天|岁|本|只|支|块|小时|分钟|秒|度|円|개|명|원)$")
_ORDINAL = re.compile(r"(?<=[0-9])\s*(?:\^\s*\{?\s*)?(?:st|nd|rd|th)\s*\}?$")
_UNIT_PART = re.compile(r"\s+per\s+|/|\s+|\^\{?-?[0-9]\}?|\{|\}")
_MATHS_COMMAND = re.compile(r"\\[A-Za-z]+\s*$")


def split_unit(text: str) -> tuple[str, str]:
    """The value and the unit of an answer.

    Args:
        text: without mark-up, as the normaliser leaves it.

    Returns:
        Value, and "" without a unit, "%", "deg", "mod 5", the short form of a known unit, or "?" for another word.
    """
    unit = ""
    if found := _MODULUS.search(text):
        return text[: found.start()].strip(), "mod " + next(part for part in found.groups() if part).strip()
    if found := _CURRENCY.match(text):
        text, unit = found[1] + text[found.end() :], _KNOWN.get(found[2].strip("\\").lower(), "?")
    elif found := _MONEY_BEHIND.search(text):
        text, unit = text[: found.start()], _KNOWN.get(found[1].strip("\\"), "?")
    if found := _MAGNITUDE.match(text):
        text = rf"{found[1].rstrip('.,')} \times 10^{{{_POWERS[found[2]]}}}{text[found.end() :]}"
        text = re.sub(r"(?<=\})\s*(?=[A-Za-z])", " ", text)
    if _PERCENT.search(text):
        return _PERCENT.sub("", text).strip(), "%"
    degrees = {"" if mark is None else mark for mark in _DEGREES.findall(text)}
    if degrees:
        return _DEGREES.sub("", text).strip(), {"C": "celsius", "F": "fahrenheit"}.get(degrees.pop(), "deg")
    text = _ORDINAL.sub("", _COUNTER.sub("", text))
    found = _WORD_UNIT.search(text)
    touches = found is not None and not found["gap"] and _MATHS_COMMAND.search(text[: found.start()])
    if found and not touches and (named := _unit(found["unit"], bool(found["gap"]))):
        return text[: found.start()].strip(), named if not unit or named != "?" else unit
    return text.strip(), unit


def disagree(one: str, other: str) -> bool:
    """Whether two units cannot both be right; no unit goes with every unit, and so does one that we do not know."""
    return one != other and bool(one) and bool(other) and "?" not in (one, other)


def _unit(text: str, apart: bool) -> str | None:
    """Short form of a unit, "?" for words that we do not know, None for what is no unit."""
    text = text.strip()
    words = [word for word in _UNIT_PART.split(text) if word]
    if not words or len(words) > 6 or not all(word.replace(".", "").replace("-", "").isalpha() for word in words):
        return None
    if any(word.lower() in _NO_UNIT for word in words):
        return None
    known = [_known(word) for word in words]
    if all(known):
        # A single letter that touches its number is a variable: 2m.
        if not apart and words[0] in _SHORT:
            return None
        return _short_form(text, words)
    if not apart or any(
        len(word) < 3 and not _known(word) and word.lower() not in ("a", "an", "in", "at") for word in words
    ):
        return None
    return "?"


def _known(word: str) -> str | None:
    for spelled in (word, word.lower(), word.lower().removesuffix("s"), word.rstrip(".")):
        if spelled in _KNOWN and (len(spelled) > 1 or spelled == word.rstrip(".")):
            return _KNOWN[spelled]
    return {"square": "square", "cubic": "cubic", "sq": "square", "cu": "cubic"}.get(word.lower().rstrip("."))


def _short_form(text: str, words: list[str]) -> str:
    parts = [_known(word) or word for word in words]
    power = ""
    if parts[0] in ("square", "cubic"):
        power = "2" if parts[0] == "square" else "3"
        parts = parts[1:]
    elif raised := re.search(r"\^\{?(-?[0-9])\}?", text):
        power = raised[1]
    return "/".join(parts) + power
