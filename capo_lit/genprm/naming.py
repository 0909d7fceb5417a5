"""The content of a verdict -> the wrong steps it names, or None: it never guesses what a judge may have meant.

A content in words ("error in step 1") is brought down to `none`, `all` or a list. A list is cut into tokens, each token
becomes one letter, and the word these letters make (the shape) is matched against the few that have one meaning.
"""

import re

from capo_lit.genprm.phrases import ALL, NOTHING, plain

# More digits than any step has, and few enough for int() to take them.
_MAX_DIGITS = 9

_DASH = "-\u2010\u2011\u2012\u2013\u2014\u2212"
_LABEL = r"(?:(?:steps?|paragraphs?)\s+)?(?:index|indices)|steps?|paragraphs?"
# In order; the letter is the token's kind. "" is skipped: mark-up that says nothing about which steps are wrong.
_TOKENS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("w", re.compile(r"\\(?:text|math|operatorname)[a-z]*\s*+\{")),
    ("{", re.compile(r"\\\{")),
    ("}", re.compile(r"\\\}")),
    ("", re.compile(r"(?:\s|\\[ ,;:!()]|\\(?:left|right|quad|qquad)(?![a-z])|[~$*`#\"'])+")),
    (",", re.compile(r"[,;\u3001\uff0c\uff1b]")),
    ("&", re.compile(r"and(?![a-z])|\\?&")),
    ("n", re.compile(r"(?:0|[1-9][0-9]*+)(?![0-9])")),
    ("-", re.compile(rf"-{{1,3}}|[{_DASH}]|(?:to|through)(?![a-z])")),
    ("0", re.compile(r"(?:none|no|\\emptyset|\\varnothing)(?![a-z0-9])|\u2205")),
    ("a", re.compile(r"(?:wrong|incorrect)(?![a-z])")),
    ("e", re.compile(r"(?:errors?|mistakes?)(?![a-z])")),
    # A dash, dot or equals sign that joins a label to a digit belongs to the label: step-1 is step 1.
    (
        "l",
        re.compile(
            rf"(?:{_LABEL})(?![a-z])"
            rf"(?:[{_DASH}.=](?=[0-9])|\s*+(?:\\?_|:|#\s*+:?|(?:no\.|numbers?:?|no\.?(?=\s*[0-9]))(?![a-z]))?)"
        ),
    ),
)
_MINUS_ONE = re.compile(rf"[{_DASH}]1(?![0-9])")
# "step -1" may be step 1 or no step at all.
_STEP_MINUS = re.compile(rf"(?:steps?|paragraphs?)(?:\s|[\\~$*`#_\"'{{(\[])+[{_DASH}]\s*[0-9]")
# They mark up what they surround; alone in a box they say nothing.
_ORNAMENTS = frozenset("~*`#\"'")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}

_ITEM = r"l?(?:n|\(n\)|\[n\]|\{n\})"
_LIST = re.compile(rf"{_ITEM}(?:-l?n)?(?:(?:,&?|&){_ITEM}(?:-l?n)?)*+")
# "no", "none", "no wrong steps", "no errors", "wrong steps: none"; "-1", also several of them.
_NOTHING = re.compile(r"(?:a?l)?(?:0(?:a?[le])?|m(?:,m)*+)")

Token = tuple[str, str]


def named(content: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    """The 0-based steps that a content names, empty if it says that none is wrong; None if it is not understood.

    Args:
        content: what stands in the box, or an item of a JSON list.
        num_steps: steps there are; an index beyond them makes the whole content not understood.
        index_base: the number of the first step.
    """
    steps = _listed(content.lower(), num_steps, index_base)
    if steps is not None:
        return steps
    simpler = plain(content, num_steps)
    if simpler == NOTHING:
        return frozenset()
    if simpler == ALL:
        return frozenset(range(num_steps)) or None
    return None if not simpler else _listed(simpler, num_steps, index_base)


def _listed(content: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    if _STEP_MINUS.search(content):
        return None
    tokens = _tokens(content)
    if tokens is None:
        return None
    tokens = _unwrap(tokens)
    shape = "".join(kind for kind, _ in tokens)
    if not shape:
        return None if _ORNAMENTS & set(content) else frozenset()
    if _NOTHING.fullmatch(shape):
        return frozenset()
    if not _LIST.fullmatch(shape):
        return None
    return _numbers(tokens, num_steps, index_base)


def _tokens(text: str) -> list[Token] | None:
    """Kinds and texts of what stands in a box; None if anything in it is unknown."""
    # One full stop may end a verdict; anywhere else it makes another number of it.
    text = text.strip().removesuffix(".")
    tokens: list[Token] = []
    groups: list[str] = []
    position = 0
    while position < len(text):
        kind, end = _token_at(text, position, tokens)
        if kind is None:
            return None
        if kind in ("w", "group"):
            groups.append("" if kind == "w" else "}")
            kind = "" if kind == "w" else "{"
        elif kind == "end":
            if not groups:
                return None
            kind = groups.pop()
        if kind:
            tokens.append((kind, text[position:end]))
        position = end
    return None if groups else tokens


def _token_at(text: str, position: int, before: list[Token]) -> tuple[str | None, int]:
    """Kind and end of the token at a position; the kind is None if there is none."""
    char = text[position]
    if char in "{}":
        return ("group" if char == "{" else "end"), position + 1
    if char in "()[]":
        return char, position + 1
    # A sign can only stand where no number came before; "3-1" is a range.
    if not (before and before[-1][0] in "n)]}") and (minus_one := _MINUS_ONE.match(text, position)):
        return "m", minus_one.end()
    for kind, pattern in _TOKENS:
        if match := pattern.match(text, position):
            return kind, match.end()
    return None, position


def _unwrap(tokens: list[Token]) -> list[Token]:
    """Without a label before everything, and without the brackets around everything."""
    # Three pairs are more than any judge writes; the bound keeps hostile replies linear.
    for _ in range(3):
        shape = "".join(kind for kind, _ in tokens)
        label = re.match(r"a?l(?=[(\[{])|al(?=n)", shape)
        if label:
            tokens, shape = tokens[label.end() :], shape[label.end() :]
        if len(shape) < 2 or _BRACKETS.get(shape[0]) != shape[-1] or not _balanced(shape[1:-1]):
            break
        tokens = tokens[1:-1]
    return tokens


def _balanced(shape: str) -> bool:
    """Whether all brackets of a shape close within it: those around `(n),(n)` do not belong together."""
    stack = []
    for kind in shape:
        if kind in _BRACKETS:
            stack.append(_BRACKETS[kind])
        elif kind in ")]}" and (not stack or stack.pop() != kind):
            return False
    return not stack


def _numbers(tokens: list[Token], num_steps: int, index_base: int) -> frozenset[int] | None:
    """The indices of a list whose shape is sound; None if one is out of range or a range runs backwards."""
    reach: dict[int, int] = {}
    first, is_range = -1, False
    for kind, text in tokens:
        if kind == "n":
            step = int(text) - index_base if len(text) <= _MAX_DIGITS else num_steps
            if not 0 <= step < num_steps or (is_range and step < first):
                return None
            first, is_range = (first if is_range else step), False
            reach[first] = max(step, reach.get(first, step))
        elif kind == "-":
            is_range = True
    steps: set[int] = set()
    covered = -1
    # Each step is added once, however often ranges repeat it.
    for first in sorted(reach):
        steps.update(range(max(first, covered + 1), reach[first] + 1))
        covered = max(covered, reach[first])
    return frozenset(steps)
