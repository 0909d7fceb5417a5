"""Shows the lines `name: meaning` of a docstring as a list; Markdown would run them together."""

import re

from griffe import Extension, Object

_DEFINITION = re.compile(r"^(?=\S)([^:\n`]{1,40}): (?=\S)", re.MULTILINE)
_FEWEST = 2  # one alone may be a sentence


def listed(text: str) -> str:
    """A docstring whose paragraphs of definitions are Markdown lists."""
    summary, *paragraphs = text.split("\n\n")
    return "\n\n".join([summary, *(_listed(paragraph) for paragraph in paragraphs)])


def _listed(paragraph: str) -> str:
    if len(_DEFINITION.findall(paragraph)) < _FEWEST or not _DEFINITION.match(paragraph):
        return paragraph
    return _DEFINITION.sub(r"- **\1**: ", paragraph)


class Definitions(Extension):
    """What mkdocstrings loads, named in mkdocs.yml."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrite the docstring of a module, class or function that has one."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)
