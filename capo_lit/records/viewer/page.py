"""The page: its template, style and scripts, and the data, in one HTML text that loads nothing."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
SCRIPTS = ("dom.js", "data.js", "list.js", "overview.js", "tokens.js", "detail.js", "curves.js", "app.js")
MARK = "<!doctype html>\n<!-- written by capo inspect -->"
# What would end a script element or a line of script, were it to stand in the data as it is.
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


def embed(value: Any) -> str:
    """JSON that is safe inside a script element, whatever text it holds.

    Raises:
        ValueError: for a number that is not finite, which JSON has none of.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def packed(value: Any) -> str:
    """JSON, compressed, in base64: details are most of the page, and one is read only when it is asked for."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def page(index: Mapping[str, Any], chunks: Iterable[str], title: str) -> str:
    """The HTML text.

    Args:
        index: what the page reads first: runs, rows of the list, curves.
        chunks: of rollouts' details, from `packed`, in the order of the rows.
        title: of the browser's tab.
    """
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    script = '"use strict";\n' + "\n".join((_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    fields = {
        "policy": f"default-src 'none'; img-src data:; script-src {_digest(script)}; style-src {_digest(style)}; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(title),
        "style": style,
        "index": embed(index),
        "chunks": "\n".join(f'<script type="application/x-rollouts">{chunk}</script>' for chunk in chunks),
        "script": script,
    }
    template = (_HERE / "page.html").read_text(encoding="utf-8")
    # In one pass, so that a field's own text is never taken for a field.
    return MARK + re.sub(r"{{(\w+)}}", lambda match: fields[match[1]], template)


def _digest(text: str) -> str:
    """Names the one script (or style) that the browser may run: no other that got into the page does."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
