"""Prompt templates of the judge: text files with fields, read and checked once."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capo_lit.core.errors import ConfigError
from capo_lit.genprm.own_words import JSON_KEY

PACKAGED = Path(__file__).parent / "templates"

# What a setting may say instead of a path: the beginning of the file's name.
NAMES = {"boxed": "critique", "json": "critique_json"}
REQUIRED = ("problem", "steps")
OPTIONAL = ("step_count", "example_open", "example_close")

# The first alternative steps over LaTeX commands, so that \boxed{none} is text and not a field.
_FIELD = re.compile(r"\\[A-Za-z]+\{[^{}]*\}|\{([A-Za-z_]\w*)\}")
_HEADER = re.compile(r"(index_base|schema):[ \t]*(.*?)[ \t]*\r?\n(?:[ \t]*\r?\n)*")
_REAL_TAG = re.compile(r"<\s*/?\s*step\W*_?\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Template:
    """A checked prompt template.

    Attributes:
        text: as in the file; `{problem}`, `{steps}` and the like are its fields, other braces stand for themselves.
        where: the file it came from.
        reference: whether it shows a reference.
        index_base: the number that the judge sees on the first step, 0 or 1.
        schema: JSON schema that a reply follows; None leaves it free.
    """

    text: str
    where: str
    reference: bool
    index_base: int = 0
    schema: Mapping[str, Any] | None = None

    def fill(self, values: Mapping[str, str]) -> str:
        """The text with every field replaced, in one pass: braces inside the values mean nothing.

        Args:
            values: one string per field that the template uses.
        """
        return _FIELD.sub(lambda match: values[match[1]] if match[1] else match[0], self.text)


def load_template(path: str | Path | None = None, reference: bool = False) -> Template:
    """Read a template and check its fields.

    Args:
        path: a UTF-8 text file, or the name of a packaged one: boxed (the verdict stands in \\boxed{}; if None too) or
            json (the reply is a JSON object, which the engine holds to a schema). Lines at its head: `index_base: 1`
            numbers the steps from 1; `schema: {...}`, on one line, is the JSON schema that replies follow.
        reference: whether the judge is shown the reference, for which the template must have `{reference}`.

    Returns:
        The template.

    Raises:
        ConfigError: if the file cannot be read, lacks a field, has an unknown one, repeats `{steps}`, numbers steps
            from neither 0 nor 1, has a schema without a verdict, or contains a tag that the judge could take for a
            real step.
    """
    name = NAMES.get("boxed" if path is None else str(path))
    file = Path(path or "") if name is None else PACKAGED / f"{name}{'_with_reference' if reference else ''}.txt"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"a prompt template that cannot be read ({error})", "a UTF-8 text file", str(file), "template"
        ) from error
    head: dict[str, str] = {}
    while line := _HEADER.match(text):
        head[line[1]], text = line[2], text[line.end() :]
    base = head.get("index_base", "0")
    if base not in ("0", "1"):
        raise ConfigError(f"index_base: {base}", "0 or 1", str(file), "the first lines of the template")
    schema = _schema(head["schema"], str(file)) if "schema" in head else None
    _check(text, str(file), reference)
    return Template(text.rstrip(), str(file), reference, int(base), schema)


def _schema(line: str, where: str) -> Mapping[str, Any]:
    """A schema that has a place for the verdict."""
    schema: dict[str, Any] = {}
    try:
        schema = json.loads(line)
        has_verdict = JSON_KEY in schema["properties"]
    except (ValueError, LookupError, TypeError):
        has_verdict = False
    if not has_verdict:
        expected = f'a JSON schema with the property "{JSON_KEY}", the list that a verdict is read from'
        raise ConfigError(f"schema: {line}", expected, where, "the first lines of the template")
    return schema


def _check(text: str, where: str, reference: bool) -> None:
    fields = [match[1] for match in _FIELD.finditer(text) if match[1]]
    required = (*REQUIRED, "reference") if reference else REQUIRED
    allowed = (*required, *OPTIONAL)
    for field in fields:
        if field not in allowed:
            change = "set reference true, or take the field out" if field == "reference" else "take the field out"
            raise ConfigError(f"the field {{{field}}}", f"only {_braced(allowed)}", where, change)
    for field in required:
        if field not in fields:
            raise ConfigError(f"no field {{{field}}}", f"each of {_braced(required)}", where, f"add {{{field}}}")
    if fields.count("steps") > 1:
        raise ConfigError(f"{fields.count('steps')} fields {{steps}}", "one", where, "show the steps once")
    if tag := _REAL_TAG.search(text):
        raise ConfigError(
            f"the tag {tag[0]!r}", "no tag of a numbered step", where, "write {example_open} and {example_close}"
        )


def _braced(names: tuple[str, ...]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
