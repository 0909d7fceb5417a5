"""Values of a row: found by a dotted path, read as text."""

import math
import numbers
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from capo_lit.core.errors import DataError
from capo_lit.data.rows import Row

_EXACT = 2**53
"""From here on a float has no digit after the point, and not every whole number."""
_DIGITS = 15
"""So many decimal digits of a number survive in a float."""


def lookup(row: Row, path: str, where: str, setting: str) -> Any:
    """The value at a path such as `reward_model.ground_truth` or `turns.0.text`.

    A key that has the dots in its own name goes before the path through them.

    Args:
        row: the row.
        path: keys of objects and places in lists (from 0; -1 is the last), joined by dots.
        where: file and line, for the message.
        setting: the setting that chose the path, for the message.

    Raises:
        DataError: naming the first part that is missing, and what is there in its place.
    """
    value: Any = row
    parts, done = path.split("."), 0
    while done < len(parts):
        cut, found = _step(value, parts[done:])
        if not cut:
            _missing(value, parts, done, where, setting)
        value, done = found, done + cut
    return value


def text_field(row: Row, field: str, where: str, setting: str) -> str:
    """The text at a path of a row; a number is written out, without an exponent.

    Args:
        row: the row.
        field: path of the value, as `lookup` takes it.
        where: file and line, for the message.
        setting: the setting that chose the field, for the message.

    Raises:
        DataError: if the field is missing, or is neither text nor a number.
    """
    return text_of(lookup(row, field, where, setting), field, where, setting)


def text_of(value: Any, field: str, where: str, setting: str) -> str:
    """Text as it is, or a number written out: 1e-05 is "0.00001", 72.0 is "72"; a Decimal keeps its places.

    Raises:
        DataError: if it is neither, no finite number, or a float that has lost digits.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return str(int(value))
    if isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool):
        return _written_out(value, field, where, setting)
    hint = f"{setting}, to a part of it with a dot" if isinstance(value, Mapping) else setting
    raise DataError(f"{type(value).__name__} {str(value)[:60]!r} in field '{field}'", "text or a number", where, hint)


def _written_out(value: Any, field: str, where: str, setting: str) -> str:
    number = value if isinstance(value, Decimal) else Decimal(str(value))
    if not number.is_finite() or abs(number.adjusted()) > 400:
        raise DataError(f"the number {value} in field '{field}'", "a finite number", where, f"{setting}, or the row")
    if isinstance(value, Decimal):
        return f"{number:f}"
    if math.fabs(value) >= _EXACT and len(plain(number).strip("-0")) > _DIGITS:
        raise DataError(
            f"the float {value} in field '{field}', whose last digits may be lost",
            "a whole number, or text",
            where,
            "the row",
        )
    return plain(number)


def plain(number: Decimal) -> str:
    """A number without exponent and without zeros that mean nothing."""
    text = f"{number:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _step(value: Any, parts: Sequence[str]) -> tuple[int, Any]:
    """How many of the parts the next key takes (0: there is none), and its value."""
    if isinstance(value, Mapping):
        for cut in range(len(parts), 0, -1):
            if (key := ".".join(parts[:cut])) in value:
                return cut, value[key]
    elif isinstance(value, list | tuple) and parts[0].removeprefix("-").isdecimal():
        index = int(parts[0])
        if -len(value) <= index < len(value):
            return 1, value[index]
    return 0, None


def _missing(value: Any, parts: Sequence[str], done: int, where: str, setting: str) -> None:
    path, here = ".".join(parts), ".".join(parts[:done])
    if isinstance(value, Mapping):
        has = f"fields {sorted(map(str, value))}"
    elif isinstance(value, list | tuple):
        has = f"a list of {len(value)}"
    else:
        has = f"{type(value).__name__} {str(value)[:60]!r}"
    got = f"{has} in '{here}', without '{parts[done]}'" if here else has
    raise DataError(got, f"a field '{path}'", where, f"{setting}, or add the field to the row")
