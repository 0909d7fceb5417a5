"""The checks around math-verify: what it may not be asked, and whether what it calls equal is equal.

math-verify adds numbers that stand side by side, drops subscripts of numerals, and rounds to six decimals; sympy
computes whatever it is handed. `readable` and `comparable` keep such questions away from it. `agrees` looks at its
yes once more, with a hundred digits.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sympy import Basic

_DIGITS = 120
_EXACT, _ROUNDED = 1e-100, 1.5e-6
_UNREADABLE = re.compile(
    r"""\\(?:[lc]?dots|dotsc|dotsb|vdots|ddots)(?![A-Za-z])|\.\.\.      # goes on, nobody says how
    |[?"#@`]|==|:=|//|\*\*|__|;\s*\S*=|%                                 # no mathematics, or code
    |(?<![\\A-Za-z])(?:lambda|return|import|print|eval|def)(?![A-Za-z])
    |(?<!_)[0-9]\s+[0-9]                                                # two numbers side by side
    |[0-9}]\s*(?:'|\^\s*\{?\s*\\prime)                                  # 72', whatever it may mean
    |(?<![A-Za-z\\_^{])[0-9]+\s*_                                       # a numeral in a base that it cannot have
    |(?<![\\A-Za-z])(?!(?:sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|arcsin|arccos|arctan|sinh|cosh|tanh|det|lcm|gcd|max|min)
        (?![A-Za-z]))[A-Za-z]{2,}\s*\(                                  # a call
    """,
    re.VERBOSE,
)
_PROSE = re.compile(r"(?<![\\A-Za-z])(?:[A-Za-z]{4,}|and|for|the|not|but|may)(?![A-Za-z])")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{[a-z]+\*?\}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_COMPUTED = frozenset(
    # One word a line would hide the list.
    """
    sum prod coprod int iint iiint oint lim limsup liminf max min sup inf gcd lcm det bigcup bigcap
    bigoplus partial
    """.split()  # noqa: SIM905
)
_PLAIN_CALL = re.compile(r"(?<![\\A-Za-z])(sum|prod|int|integral|lim|max|min|gcd|lcm|det)(?![A-Za-z])")


def readable(text: str) -> bool:
    """Whether a text in its one spelling is mathematics that math-verify reads as it was meant."""
    return not _UNREADABLE.search(text) and not _PROSE.search(_COMMAND.sub(" ", _ENVIRONMENT.sub(" ", text)))


def comparable(gold: str, answer: str) -> bool:
    """Whether two answers can be compared without computing one of them.

    A sum, an integral, a limit or the like is compared with another of its kind only: as an answer to a gold number
    it states the problem again, and computing it may take for ever. Lists must have as many items: a set would not
    notice that 5, 5 is not 5.
    """
    if not (readable(gold) and readable(answer) and _operators(gold) == _operators(answer)):
        return False
    return bool(_NO_LIST.search(gold) or _NO_LIST.search(answer)) or _items(gold) == _items(answer)


_NO_LIST = re.compile(r"[<>]|\\(?:pm|mp|le|ge|ne|cup|cap|begin|in|mathbb|emptyset)(?![A-Za-z])")


def _items(text: str) -> int:
    """How many values a list has: 1, 2 and (1, 2) and {1, 2} have two."""
    depth, commas = 0, {0: 0, 1: 0}
    text = _THOUSANDS.sub("", text.replace("\\{", "(").replace("\\}", ")"))
    outer = text.startswith(("(", "[")) and text.endswith((")", "]"))
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        outer = outer and (depth > 0 or place == len(text) - 1)
        if char == "," and depth in commas:
            commas[depth] += 1
    return commas[1 if outer else 0] + 1


_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")


def _operators(text: str) -> frozenset[str]:
    named = {command[1:] for command in _COMMAND.findall(text)} | set(_PLAIN_CALL.findall(text))
    return frozenset(named & (_COMPUTED | {"integral"}))


def agrees(gold: Any, answer: Any) -> bool:
    """Whether two expressions that math-verify calls equal agree relatively, part by part.

    Exact numbers must agree in 100 digits; with a decimal on one side six are enough. Formulas are compared at one
    point. What has no numeric value is taken as math-verify has it.

    Args:
        gold: a sympy expression, matrix, set or relation.
        answer: another.
    """
    from sympy import Basic, Float, MatrixBase
    from sympy.core.relational import Relational

    one, other = _parts(gold), _parts(answer)
    if one is not None and other is not None:
        # Of different length they are different kinds of container, as x > 3 and an interval are.
        return len(one) != len(other) or all(agrees(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(gold, MatrixBase) or isinstance(answer, MatrixBase):
        return True
    if not isinstance(gold, Basic) or not isinstance(answer, Basic):
        return True
    if isinstance(gold, Relational) and isinstance(answer, Relational):
        return gold.lhs != answer.lhs or agrees(gold.rhs, answer.rhs)
    values = _value(gold), _value(answer)
    if values[0] is None or values[1] is None:
        return True
    return _close(*values, _ROUNDED if gold.has(Float) or answer.has(Float) else _EXACT)


def same_complex(gold: Any, answer: Any) -> bool:
    """Whether two numbers with i in them, which math-verify reads as a variable, are the same."""
    from sympy import Basic, I

    if not (isinstance(gold, Basic) and isinstance(answer, Basic)):
        return False
    symbols = gold.free_symbols | answer.free_symbols
    if {str(symbol) for symbol in symbols} != {"i"}:
        return False
    unit = dict.fromkeys(symbols, I)
    values = _value(gold.subs(unit)), _value(answer.subs(unit))
    return values[0] is not None and values[1] is not None and _close(*values, _EXACT)


def _close(one: Any, other: Any, share: float) -> bool:
    scale = max(abs(one), abs(other))
    return scale == 0 or bool(abs(one - other) <= share * scale)


def _parts(expression: Any) -> list[Any] | None:
    """What a list, a set, an interval or a matrix holds, in an order that equal ones share; None for a scalar."""
    from sympy import FiniteSet, Interval, MatrixBase, Tuple

    if isinstance(expression, Interval):
        return [expression.start, expression.end]
    if isinstance(expression, MatrixBase):
        return list(expression.flat())
    if isinstance(expression, Tuple):
        return list(expression.args)
    if isinstance(expression, FiniteSet):
        return _sorted(expression.args)
    return None


def _sorted(parts: Iterable[Any]) -> list[Any]:
    values = [(_value(part), part) for part in parts]
    if any(value is None or not value.is_real for value, _ in values):
        from sympy import ordered

        return list(ordered(part for _, part in values))
    return [part for _, part in sorted(values, key=lambda pair: pair[0])]


def _value(expression: "Basic") -> Any:
    """The expression at one point, as a number of 120 digits; None if it has no finite value there."""
    from sympy import Rational, Symbol

    symbols = sorted(expression.free_symbols, key=str)
    point = {
        symbol: Rational(17 + 3 * place, 13 + place)
        for place, symbol in enumerate(symbols)
        if isinstance(symbol, Symbol)
    }
    try:
        value = expression.subs(point).evalf(_DIGITS)
    except (TypeError, ValueError, AttributeError, ArithmeticError, NotImplementedError):
        return None  # no number: what math-verify said stands
    return value if value.is_number and value.is_finite else None
