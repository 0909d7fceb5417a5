"""Equations as MathML, which browsers draw by themselves: no script, no font, no network."""

from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> None:
    """What mkdocs calls first: have fenced blocks named `math` converted."""
    fence = {"name": "math", "class": "math", "format": equation}
    config.mdx_configs["pymdownx.superfences"] = {"custom_fences": [fence]}


def equation(latex: str, *_: Any, **__: Any) -> str:
    """A block of LaTeX as HTML; LaTeX that is wrong ends the build."""
    return f'<div class="equation">{convert(latex, display="block")}</div>'
