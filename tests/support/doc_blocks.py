"""Code blocks of the documents, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

REPO = Path(__file__).resolve().parents[2]
PAGES = sorted([*(REPO / "docs").rglob("*.md"), REPO / "README.md", REPO / "CONTRIBUTING.md"])
NEEDS_GPU = "# needs a GPU"
_PROGRAMS = ("capo", "capo-sweep", "make", "python", "pip", "conda", "vllm", "mkdocs", ".venv/bin/")


@dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: relative to the repository.
        line: where it begins, from 1.
        language: of a fence; "" for indented text.
        title: of a fence: the name of the file that it is; "" for none.
        text: its content.
    """

    page: str
    line: int
    language: str
    title: str
    text: str


@dataclass(frozen=True)
class Command:
    """One command of a code block.

    Attributes:
        where: page and number of the command in it.
        page: relative to the repository.
        words: as a shell splits them, without variables set before it and without an ellipsis.
        needs_gpu: its block says so.
    """

    where: str
    page: str
    words: tuple[str, ...]
    needs_gpu: bool


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    found = []
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            language, _, rest = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            line = (token.map or [0])[0] + 1
            name = page.relative_to(REPO).as_posix()
            found.append(Block(name, line, language, title[1] if title else "", token.content))
    return found


def commands(page: Path) -> list[Command]:
    """All commands of a page: every line of a bash fence, and every line of other text that starts with a program."""
    found: list[Command] = []
    for block in blocks(page):
        if block.language not in ("", "bash"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            is_command = block.language == "bash" or line.startswith(_PROGRAMS)
            words = [word for word in shlex.split(line, comments=True) if word != "..."] if is_command else []
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and (block.language == "bash" or words[0] in _PROGRAMS or words[0].startswith(".venv/bin/")):
                where = f"{block.page}-{len(found)}-{'_'.join(words[:3])}".replace("/", ".")
                found.append(Command(where, block.page, tuple(words), NEEDS_GPU in block.text))
    return found


def inline_commands(page: Path) -> list[str]:
    """Commands of ours that running text names, such as `capo verify`."""
    text = [token.children or [] for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))]
    codes = [child.content for children in text for child in children if child.type == "code_inline"]
    return [code for code in codes if re.match(r"capo \w|capo-sweep|make \w|python (bench/|examples/|-m docs)", code)]
