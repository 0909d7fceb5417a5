"""The value that a sentence states: "the answer is 72 apples, not 70" states 72, "about 72" and "70 to 72" nothing."""

import re
from typing import NamedTuple

STATEMENT_CHARS = 300
"""A statement is looked for in this many characters after its marker."""

_FOREIGN = "答案|答え|答|정답|답|ответ|respuesta|réponse|antwort|resposta|risposta"
MARKER = re.compile(
    rf"(?<![A-Za-z])(?:answers?|ans\.?)(?![A-Za-z])|(?:{_FOREIGN})",
    re.IGNORECASE,
)
"""What announces an answer; whether a value follows is another question."""

_MARKS = r"[*_`\"'#\s\u201c\u201d\u3000]{0,12}"
_LINK = re.compile(
    rf"{_MARKS}(?:\([^()\n]{{0,60}}\)\s{{0,4}})?"
    # "answer to the question", "answer must"
    r"(?:(?:to|of|for|in|that|we|i|you|here|after|when|would|must|should|will|can|therefore|then|now|thus|so|also)"
    r"(?![A-Za-z])[^.\n:=$\\]{0,100}?\s)?"
    r"(?:(?P<negated>isn't|is not|are not|was not|cannot be|can't be)|"
    r"is|are|was|be|being|equals?|comes out to|comes to|becomes|=|:|\uff1a|是|为|→|⇒|は)"
    r"(?:\s{0,4}(?:[:\uff1a=]|equal to|simply|just))?",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"(?:a|an|the|total|of|number|equal|equals|to|simply|just|exactly|thus|therefore|then|only|indeed|clearly|obviously|"
    r"given|by|value|sum|amount|that|there|is|are|was|be|final|answer|result|option|choice|now|still|precisely|namely|"
    r"all|=|:|[*_`\s\"'\u201c\u201d,\u3000])+",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"(?<![A-Za-z])(?:about|approximately|approx|around|roughly|nearly|almost|close to|within|somewhere|"
    r"maybe|perhaps|possibly|probably|likely|might|may|could|guess|unsure|uncertain|unknown|not sure|i think|i believe|"
    r"either|between|at least|at most|more than|less than|fewer than|greater than|no more than|up to|or more|or less|"
    r"or fewer|or greater|or so|under|below|above|over|大约|约|可能|也许)(?![A-Za-z])|[~≈]|\\approx|\\sim",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"(?<![A-Za-z])(?:not|isn't|never|neither|nor|anything but|cannot|can't|wasn't|aren't|wrong|incorrect|false)"
    r"(?![A-Za-z])|不是|错",
    re.IGNORECASE,
)
_PLACE = re.compile(
    r"(?<![A-Za-z])(?:steps?|parts?|lines?|equations?|sections?|pages?|questions?|problems?|examples?|cases?|figures?|tables?)\s*\(?$",
    re.IGNORECASE,
)
_END = re.compile(r"\n|,?\s(?:because|since)(?![A-Za-z])|[.!?](?=\s|$|[\"')*\]])|[。！？]")
_MATHS = re.compile(r"\$\$?([^$\n]{1,250})\$\$?|\\\(\s*(.{1,250}?)\s*\\\)|\\\[\s*(.{1,250}?)\s*\\\]")
_RUN = re.compile(
    r"(?:\\\$|US\$|[$€£¥])?\s{0,2}"
    r"(?:\\[A-Za-z]+\*?|\\[%{}$,;!: ]|[0-9]+(?:[.,][0-9]+)*|\.[0-9]+"  # commands and numbers
    r"|(?<![A-Za-z])(?:sqrt|sin|cos|tan|log|ln|pi)(?![A-Za-z])"
    r"|(?<![A-Za-z])[A-Za-z](?![A-Za-z'])|(?<=[0-9])(?:e[+-]?[0-9]+|[A-Z](?![A-Za-z]))"  # variables, 1e5
    r"|[-+*/^=(){}\[\]%°×·÷√π∞<>≤≥_|!½¼¾⅓⅔²³−–—]|,(?=\s?[-0-9(\\A-Za-z](?![A-Za-z]{2}))|:(?=[0-9])|[\s\u00a0](?=\S))+"
)
_MAGNITUDE = re.compile(r"\s+(hundred|thousand|million|billion|trillion)(?![A-Za-z])", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(?:%|percent(?:age)?|pct)(?![A-Za-z])", re.IGNORECASE)
_OPERATOR = re.compile(
    r"\s*(?:times|plus|minus|divided|multiplied|squared|cubed|mod|over|more|less|fewer|choose|factorial)(?![A-Za-z])",
    re.IGNORECASE,
)
_NEXT = re.compile(
    r"\s*(?:,?\s*(?P<word>and|or|to|through|und|或|和|到|至)(?![A-Za-z])|,)\s*(?=[-+0-9\\.(√$]|[A-Za-z](?:\(|\s*=))",
    re.IGNORECASE,
)
_EMPTY_WORDS = frozenset(
    # One word a line would hide the list.
    """
    correct right wrong incorrect below above follows clear obvious here this that it as found given
    obtained shown not unknown unclear undetermined explained verified confirmed consistent reasonable
    simple easy good fine complete done ready required needed expected in on at from which what
    """.split()  # noqa: SIM905
)
_TEXT_ANSWER = re.compile(r"\(?[^\W\d_][\w'’.)-]*(?:[ ,-]+\(?[\w'’)-]+){0,5}")


_BEFORE_CHARS = 80
_SENTENCES = re.compile(r"[.!?\n]")
_SUPPOSED = re.compile(
    r"(?<![A-Za-z])(?:maybe|perhaps|possibly|guess|doubt|unlikely|not sure|unsure|don't think|do not think|"
    r"don't believe|if|suppose|assume|assuming|unless|whether|whatever)(?![A-Za-z])",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[*_#\s:]{0,8}\n\s*")
_START = re.compile(r"\$|\\\(|(?<![A-Za-z0-9])[-−]?[0-9]|\\frac|\\sqrt|(?<![A-Za-z])\.[0-9]|[½¼¾√]")
_CALLED_WRONG = re.compile(r"[^.]{0,40}?(?:is|are|was|would be|seems|looks)\s+(?:wrong|incorrect|false|not)")
_REASON = re.compile(r"\bfor\b|\bnot(?=\s+[$0-9])")
_ALTERNATIVE = re.compile(r"\bor\s+(?:\w+\s+)?[$]?[0-9]")
_RANGE = re.compile(r"\d[\d.,]*\s*[-–—−]\s*\d[\d.,]*")


class Statement(NamedTuple):
    """What one sentence says about the answer.

    Attributes:
        value: the value, None if it states none.
        governs: whether the sentence speaks of a value at all; if not, an earlier one may.
        negated: values that it says are not the answer.
    """

    value: str | None
    governs: bool
    negated: frozenset[str] = frozenset()


_ROUGHLY = ("\\approx", "\\sim", "≈", "~")
_SAYS_NOTHING = Statement(None, False)


def stated_after(text: str, marker: re.Match[str]) -> Statement:
    """What is said after a marker.

    The value may stand on the next line if nothing else is on the marker's own. Words before the marker count too:
    "I doubt that the answer is 5" states nothing.
    """
    start = marker.end()
    before = _SENTENCES.split(text[max(0, marker.start() - _BEFORE_CHARS) : marker.start()])[-1]
    if _SUPPOSED.search(before):
        return _SAYS_NOTHING
    window = text[start : start + STATEMENT_CHARS]
    found = _LINK.match(window) or (_HEADING.match(window) if _is_heading(text, start) else None)
    if found is None:
        return _SAYS_NOTHING
    rest = window[found.end() :].lstrip("*_`:\uff1a \t\r\n\u3000\"'")
    return _read(rest, bool(found.groupdict().get("negated")))


def stated_value(text: str) -> str | None:
    """The value that a text states which is known to be an answer: a `####` line, the content of a tag."""
    return _read(text.strip(), negated=False).value


def says_only_answer(text: str) -> bool:
    """Whether one line is a number with its unit, or with a percent sign, and nothing else."""
    found = re.fullmatch(r"(?:\\\$|\$)?\s*[-+−]?[0-9][0-9.,/ ]*\s*(?:%|\\%|[A-Za-z]{2,15})\.?", text)
    return found is not None


def _is_heading(text: str, start: int) -> bool:
    line = text.rfind("\n", 0, start) + 1
    return len(text[line:start].split()) <= 4


def _read(text: str, negated: bool) -> Statement:
    clause = _clause(text)
    asked = text[len(clause) : len(clause) + 1] == "?"
    values, first, last = _values(clause)
    if not values:
        words = None if negated else _in_words(clause)
        return Statement(words, True) if words else _SAYS_NOTHING
    before, after = clause[:first], clause[last:]
    if _PLACE.search(before):  # the answer is in step 3
        return _SAYS_NOTHING
    if negated or _NEGATION.search(before):
        return Statement(None, False, frozenset(values))
    if _CALLED_WRONG.match(after):
        return Statement(None, False, frozenset(values))
    if (
        asked
        or _ALTERNATIVE.search(after)
        or values[0].startswith(_ROUGHLY)
        or _HEDGE.search(before)
        or _HEDGE.search(_REASON.split(after, maxsplit=1)[0])
    ):
        return Statement(None, True)
    return Statement(values[0] if len(values) == 1 else None, True)


def _clause(text: str) -> str:
    """Up to the end of the first sentence; a full stop inside mathematics does not end it."""
    shift = 0
    if lead := _MATHS.match(text):
        shift = lead.end()
    found = _END.search(text, shift)
    return text[: found.start()] if found else text


def _values(clause: str) -> tuple[list[str], int, int]:
    """The values of a clause with where the first starts and the last ends; one value unless several are stated."""
    fill = _FILLER.match(clause)
    start = fill.end() if fill else 0
    value, end = _value_at(clause, start)
    if value is not None:
        return _listed(clause, value, start, end)
    found: list[tuple[str, int, int]] = []
    position = start
    while position < len(clause) and len(found) < 2:
        step = _START.search(clause, position)
        if step is None:
            break
        value, end = _value_at(clause, step.start())
        if value is not None:
            found.append((value, step.start(), end))
        position = max(end, step.end())
    if not found:
        return [], len(clause), len(clause)
    if len(found) == 1:
        return _listed(clause, *found[0])
    # Several numbers somewhere in a sentence: none of them is stated, unless the last one ends it after an equals.
    return [value for value, _, _ in found], found[0][1], found[-1][2]


def _listed(clause: str, value: str, start: int, end: int) -> tuple[list[str], int, int]:
    """A value, or the list that it begins: 3 and 5; a range is two values, so none is stated."""
    items = [value]
    while found := _NEXT.match(clause, end):
        following, stop = _value_at(clause, found.end())
        if following is None:
            break
        if (found["word"] or "").lower() in ("to", "through", "到", "至"):
            return [value, following], start, stop
        items.append(following)
        end = stop
    return [", ".join(items)], start, end


def _value_at(clause: str, start: int) -> tuple[str | None, int]:
    """The value that starts at a position, and where it ends; (None, position) if none does."""
    if (maths := _MATHS.match(clause, start)) and not re.search(r"(?<![\\A-Za-z{])[A-Za-z]{3,}", maths[0]):
        inner = next(part for part in maths.groups() if part is not None).strip()
        percent = _PERCENT.match(clause, maths.end())
        return inner + (r"\%" if percent else ""), percent.end() if percent else maths.end()
    run = _RUN.match(clause, start)
    if run is None:
        return None, start
    text = _trim(run[0])
    if not re.search(r"[0-9½¼¾⅓⅔π∞]|\\[A-Za-z]{2,}", text):
        return None, start
    end = start + run[0].find(text) + len(text)
    if _OPERATOR.match(clause, end):
        return None, end
    if large := _MAGNITUDE.match(clause, end):
        text, end = f"{text} {large[1].lower()}", large.end()
    elif percent := _PERCENT.match(clause, end):
        text, end = text + r"\%", percent.end()
    if _RANGE.fullmatch(text):  # 70-72 says from 70 to 72
        return f"{text} to", end
    if "=" in text and "," not in text and not re.search(r"[A-Za-z]", text.split("=")[0]):
        text = text.rsplit("=", 1)[1].strip()
    return text or None, end


def _trim(run: str) -> str:
    """A run without what belongs to the sentence: a single letter as a word, a dash, a bracket that opens nothing."""
    before = None
    text = run.strip()
    while text != before:
        before = text
        text = re.sub(r"\s+[a-zA-Z]$", "", text) if not re.search(r"[-+*/^=]\s*[a-zA-Z]$", text) else text
        text = re.sub(r"(?:\s+[-–—=+*/(<>|:]+|[,:=(\[{|]|\s)+$", "", text)
        if text.endswith(")") and text.count("(") < text.count(")"):
            text = text[:-1]
        text = text.rstrip("*_")
    return text


def _in_words(clause: str) -> str | None:
    """A short answer without a number: Paris, (B), no solution."""
    fill = _FILLER.match(clause)
    text = clause[fill.end() if fill else 0 :].strip(" *_`\"'\t,;:“”")
    if clause.strip(" *_`") in ("A", "a"):
        text = clause.strip(" *_`")
    if not text or len(text) > 80 or not _TEXT_ANSWER.fullmatch(text) or _HEDGE.search(text) or _NEGATION.search(text):
        return None
    words = re.findall(r"[^\W\d_]+", text.lower())
    return None if words and words[0] in _EMPTY_WORDS else text
