"""The normaliser before math-verify: one spelling for all the ways in which people write the same answer.

Each rule is a small function from text to text, listed in order in `_RULES`. A rule may only rewrite what changes
nothing about the value: signs that Unicode has twice, spacing, mark-up, words for signs. What does say something but
is not the value (a unit, a percent sign, a modulus) is taken off by `normalise` and kept beside it.
"""

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from capo_lit.verifier.units import split_unit

_LOOPS = 20
"""Nested mark-up is taken off this many times; more is no final answer."""


class Form(NamedTuple):
    """An answer in its one spelling.

    Attributes:
        text: LaTeX without mark-up, unit and needless blanks; empty if nothing is left.
        unit: "" for none; "%", "deg", "mod 5", a known unit in its short form; "?" for one we do not know.
        whole: the text with its unit, for comparing texts.
    """

    text: str
    unit: str
    whole: str


@lru_cache(maxsize=4096)
def normalise(text: str) -> Form:
    """An answer in its one spelling.

    Args:
        text: at most ANSWER_CHARS characters, as written in a box or a sentence.

    Returns:
        The form; `normalise(form.whole)` has the same text.
    """
    if _PLAIN.fullmatch(text):  # most answers
        return Form(text, "", text)
    for rule in _RULES:
        text = rule(text)
    whole = text
    core, unit = split_unit(text)
    core = _words_for_values(_outer(core))
    return Form(core, unit, whole)


_PLAIN = re.compile(r"-?[0-9]{1,60}(?:\.[0-9]{1,60})?")
_DASHES = dict.fromkeys(map(ord, "\u2212\ufe63\u2010\u2011\u2012\u2013\u2014\u2015"), "-")
_SPACES = dict.fromkeys(
    map(
        ord,
        "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\t\n\r\f\v",
    ),
    " ",
)
_NOTHING = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"), None)
_SIGNS = {
    ord(sign): spelled
    for sign, spelled in {
        "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ",
        "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "±": r"\pm ",
        "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∈": r"\in ", "∉": r"\notin ", "∞": r"\infty ",
        "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}",
        "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
        "ε": r"\epsilon ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ", "ϕ": r"\phi ",
        "ω": r"\omega ", "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"',
        "…": r"\ldots ", "⋯": r"\cdots ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∼": r"\sim ", "√": "√",
        "，": ",", "、": ",", "。": ".", "；": ";", "：": ":", "％": r"\%", "﹪": r"\%", "￥": "¥",
        "﹣": "-", "＋": "+", "—": "-", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor ",
    }.items()
}  # fmt: skip
_RANGE_DASH = re.compile(r"(?<=[0-9])\s*[\u2012-\u2015~\uff5e]\s*(?=[0-9])")
_RAISED = re.compile("[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹ⁿⁱˣ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋]+")
_ROOT = re.compile(r"√\s*(\{|\(|[0-9.]+|[A-Za-z])?")
_CUBE_ROOT = re.compile(r"∛\s*([0-9.]+|[A-Za-z])")
_VULGAR = re.compile("([0-9]?)\\s*([\u00bc-\u00be\u2150-\u215e\u2189])")
_BAR = re.compile("((?:[0-9][\u0304\u0305])+)")
_DOT = re.compile("((?:[0-9]\u0307)+)")


def _unicode(text: str) -> str:
    """ASCII and LaTeX for every sign that has such a spelling."""
    # A dash of this kind between two numbers says "to"; as a minus it would make a difference of a range.
    text = _RANGE_DASH.sub(r" \\text{to} ", text)
    text = _BAR.sub(lambda found: r"\overline{" + re.sub("[\u0304\u0305]", "", found[1]) + "}", text)
    text = _DOT.sub(lambda found: r"\overline{" + found[1].replace("\u0307", "") + "}", text)
    text = _VULGAR.sub(_vulgar, text)
    text = _RAISED.sub(lambda found: "^{" + unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-") + "}", text)
    text = _LOWERED.sub(lambda found: "_{" + unicodedata.normalize("NFKC", found[0]).replace("\u2212", "-") + "}", text)
    text = text.translate(_SPACES | _NOTHING | _SIGNS | _DASHES)
    text = "".join(map(_half_width, text)) if not text.isascii() else text
    text = _CUBE_ROOT.sub(r"\\sqrt[3]{\1}", text)
    return _roots(text)


def _half_width(char: str) -> str:
    if "\uff01" <= char <= "\uff5e":
        return chr(ord(char) - 0xFEE0)
    return str(unicodedata.digit(char, -1)) if char.isdigit() and not char.isascii() else char


def _vulgar(found: re.Match[str]) -> str:
    top, bottom = unicodedata.normalize("NFKC", found[2]).split("\u2044")
    return f"{found[1]}\\frac{{{top}}}{{{bottom}}}"


def _roots(text: str) -> str:
    def spelled(found: re.Match[str]) -> str:
        inner = found[1]
        return (
            r"\sqrt" + ("" if inner in (None, "{", "(") else "{" + inner + "}") + (inner if inner in ("{", "(") else "")
        )

    return _PLAIN_ROOT.sub(
        r"\\sqrt{\1}", re.sub(r"(?<![\\A-Za-z])sqrt\s*(?=[({])", r"\\sqrt", _ROOT.sub(spelled, text))
    )


_PLAIN_ROOT = re.compile(r"\\sqrt\s*\(([^()]*)\)")
_BLANKS = re.compile(
    r"(?<!\\)\\(?:[ ,;:>]|q?quad(?![A-Za-z])|(?:thin|med|thick)space(?![A-Za-z])|[hv]space\*?\s*\{[^{}]*\})|&nbsp;|~"
)
_GONE = re.compile(
    r"\\(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|bf|rm|it|sf|tt|"
    r"boldmath|small|large|Large|huge|normalsize|centering|notag)(?![A-Za-z])\.?|(?<!\\)\\[!()\[\]]|\\[vh]?phantom\s*\{[^{}]*\}"
)
_DECIMAL_BRACES = re.compile(r"(?<=[0-9])\{([.,])\}(?=[0-9])")
_TAGS = re.compile(r"</?(?:b|i|u|em|strong|code|span|p|br|mark|sub|sup|answer)\b[^<>]*>", re.IGNORECASE)
_FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_MARKDOWN = re.compile(r"(\*{1,3}|`{1,3}|_{2})(?=\S)(.*?)(?<=\S)\1")


def _spacing(text: str) -> str:
    """One blank for every kind of space, none for commands that only space or size."""
    text = _DECIMAL_BRACES.sub(r"\1", text).replace("\\$", "\u00a4").replace("$", "").replace("\u00a4", r"\$ ")
    text = _BLANKS.sub(" ", _GONE.sub("", text))
    return _FRACTIONS.sub(r"\\frac", _TAGS.sub(" ", text))


_WRAPPER = re.compile(
    r"\\(?P<name>boxed|fbox|framebox|underline|overbrace|underbrace|mathbf|mathrm|mathit|mathsf|mathtt|mathnormal|boldsymbol|"
    r"bm|pmb|textbf|textit|textrm|textsf|texttt|emph|mbox|hbox|text|ensuremath|textnormal|uline|operatorname|"
    r"textcolor|colorbox|color|mathstrut|cancel|bbox)(?![A-Za-z])\*?\s*(?:\[[^\[\]]*\])?\s*(?=\{)"
)
_DIGITS = tuple("0123456789")
_COLOURS = ("textcolor", "colorbox", "color")
_SAYS_WORDS = (
    "text",
    "mathrm",
    "mbox",
    "hbox",
    "textrm",
    "textbf",
    "textit",
    "textsf",
    "texttt",
    "operatorname",
    "textnormal",
    "emph",
)


def _wrappers(text: str) -> str:
    """Without commands that only change how their argument looks."""
    for _ in range(_LOOPS):
        found = _WRAPPER.search(text)
        if found is None:
            break
        start = found.end()
        if found["name"] in _COLOURS:  # the first argument is the colour
            end = closing(text, start)
            if end is None:
                break
            start = end + 1 + len(text[end + 1 :]) - len(text[end + 1 :].lstrip())
            if not text.startswith("{", start):
                text = text[: found.start()] + text[start:]
                continue
        end = closing(text, start)
        if end is None:
            break
        inner = text[start + 1 : end]
        if found["name"] in _SAYS_WORDS and (len(inner.strip()) > 1 or text[: found.start()].endswith(_DIGITS)):
            inner = f" {inner} "
        text = text[: found.start()] + inner + text[end + 1 :]
    return text


def closing(text: str, start: int) -> int | None:
    """Position of the brace that closes the one at `start`; None if it never closes."""
    depth, index = 0, start
    while index < len(text):
        char = text[index]
        if char == "\\":  # an escaped brace is no bracket
            index += 2
            continue
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return index
        index += 1
    return None


def _markdown(text: str) -> str:
    for _ in range(3):
        text = _MARKDOWN.sub(r"\2", text)
    return text


_FRAC = re.compile(r"\\frac\s*(?:\{([^{}]*)\}|([0-9]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))")
_E_NOTATION = re.compile(r"(?<![A-Za-z0-9.\\])([0-9]+\.?[0-9]*|\.[0-9]+)[eE]([+-]?[0-9]{1,4})(?![A-Za-z0-9.])")
_MIXED = re.compile(
    r"(?<![0-9.,/}^_{A-Za-z])([0-9]+) +(?:([0-9]+) ?/ ?([0-9]+)|\\frac\{([0-9]+)\}\{([0-9]+)\})(?![0-9.]|\s*/)"
)
_SPACED_GROUPS = re.compile(r"(?<![0-9.,/] )(?<![0-9.,/_^{])([0-9]{1,3}(?: [0-9]{3})+)(?![0-9]| ?/| [0-9])")


def _numbers(text: str) -> str:
    """Fractions with both braces, mixed numbers as sums, 4e3 as 4 x 10^3, digits grouped by blanks as one number."""
    text = " ".join(text.split())
    text = _FRAC.sub(
        lambda found: rf"\frac{{{(found[1] or found[2] or '').strip()}}}{{{(found[3] or found[4] or '').strip()}}}",
        text,
    )
    text = _E_NOTATION.sub(lambda found: rf"{found[1]} \times 10^{{{int(found[2])}}}", text)
    text = _MIXED.sub(_mixed, text)
    return _SPACED_GROUPS.sub(lambda found: found[1].replace(" ", ""), text)


def _mixed(found: re.Match[str]) -> str:
    top, bottom = int(found[2] or found[4]), int(found[3] or found[5])
    return rf"{found[1]}\frac{{{top}}}{{{bottom}}}" if 0 < top < bottom else found[0]


_WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), spelled)
    for pattern, spelled in (
        (r"\\(?:varnothing|O)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset"),
        (r"\\(?:le|leq|leqslant|leqq)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:ge|geq|geqslant|geqq)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\log\s*_\s*(?:e|\{e\})(?![A-Za-z])", r"\\ln"),
        (r"\.\.\.+", r"\\ldots "),
        (r"(?<![\\A-Za-z])(sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan)(?![A-Za-z])", r"\\\1"),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:lbrace|lbrack)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace|rbrack)(?![A-Za-z])", r"\\}"),
        (r"(?<![\\A-Za-z])(?:infinity|infty|inf)(?![A-Za-z])", r"\\infty"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"\\mathbb\s*(?:\{\s*([A-Z])\s*\}|([A-Z])(?![A-Za-z]))|\\Reals(?![A-Za-z])", r"\\mathbb{\1\2}"),
    )
)


def _spelling(text: str) -> str:
    for pattern, spelled in _WORDS:
        text = pattern.sub(spelled, text)
    text = " ".join(text.split())
    # Between values "and" and "or" list them; between inequalities they differ, and stay.
    return text if _INEQUALITY.search(text) else _LISTING.sub(", ", text)


_INEQUALITY = re.compile(r"[<>]|\\(?:le|ge|ne)(?![A-Za-z])")
_LISTING = re.compile(r"(?<=[0-9A-Za-z})\]!]),? (?:and|or) (?=[-+(\\{\[0-9]|[A-Za-z](?![A-Za-z]))")


_LEAD = re.compile(
    r"^(?:(?:=|:|\\therefore|\\implies|\\Rightarrow|\\approx)(?![A-Za-z=])\s*"
    r"|[A-Za-z]\s*(?:\\in(?![A-Za-z])|\\equiv(?![A-Za-z]))\s*"
    r"|(?!lambda|return|print|import)[A-Za-z]{3,40}(?:[ -][A-Za-z]{2,40}){0,4} ?[=:]\s*(?=\S))"  # Total = 12
)
_TAIL = re.compile(r"(?<!\\)(?:[\s.,;:]|\\\\)+$|\s\\$")
_REMARK = re.compile(r"(?<=[0-9}])\s*\([A-Za-z]{3,40}(?:[ -][A-Za-z]{1,40}){0,9}\)$")
_LETTER = re.compile(r"\(([A-Za-z])\)")
_IN_BRACKETS = re.compile(r"\(([+-]?[0-9][0-9.]*|\\frac\{[0-9]+\}\{[0-9]+\})\)")


def _outer(text: str) -> str:
    """Without what stands around an answer: a leading equals sign, a final full stop, braces, a remark in words."""
    for _ in range(_LOOPS):
        before = text
        text = _REMARK.sub("", _TAIL.sub("", _LEAD.sub("", text.strip()))).strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1]
        if found := _LETTER.fullmatch(text) or _IN_BRACKETS.fullmatch(text):
            text = found[1]
        if text == before:
            break
    return text


_SAID: dict[str, str] = {
    said: meant
    for meant, all_said in {
        r"\mathbb{R}": "all real numbers|all reals|all real|the set of real numbers|the set of all real numbers|"
        "real numbers|all real values|the real numbers|any real number|every real number",
        r"\emptyset": "no solution|no solutions|no real solution|no real solutions|empty set|the empty set|"
        "there is no solution|there are no solutions|has no solution|no solution exists|no real roots|无解|空集",
        "does not exist": "dne|doesn't exist|d.n.e",
        "infinitely many": "infinitely many solutions|infinite solutions|infinite|infinite number of solutions",
        "yes": "是|对",
        "no": "否|不",
        "true": "correct",
        "false": "incorrect",
    }.items()
    for said in all_said.split("|")
}


def _words_for_values(text: str) -> str:
    """One spelling for what words may say: all real numbers, no solution."""
    return _SAID.get(" ".join(text.casefold().split()), text)


_RULES = (_unicode, _spacing, _wrappers, _markdown, _spelling, _numbers, _outer)
