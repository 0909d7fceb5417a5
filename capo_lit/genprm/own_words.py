"""What of a judge's reply is its own word: not its thinking, not what follows its turn, not what it quotes."""

import re
from bisect import bisect_right

JSON_KEY = "wrong_steps"

_THINK = re.compile(
    r"[<\[\u25c1](?P<close>/?)(?:think(?:ing)?|thought|reasoning)[>\]\u25b7]"
    r"|<\|channel\|>(?:(?P<final>final)|analysis|commentary)[^<\n]{0,80}<\|message\|>",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"<[|\uff5c][a-z_\u2581 ]{1,40}[|\uff5c]>|<(?:/s|s|eos|bos|end_of_turn|start_of_turn)>|\[(?:EOS|/?INST)\]",
    re.IGNORECASE,
)
_ROLE = re.compile(r"\s*+(?:(?:assistant|model)\b)?\s*+", re.IGNORECASE)
_FENCE = re.compile(r"^[ \t]*+(?:`{3,}+|~{3,}+)([^\n`]*+)$", re.MULTILINE)
_BLOCKQUOTE = re.compile(r"^[ \t]*+>[^\n]*+", re.MULTILINE)
# Tags in which a judge repeats what it was shown; <answer> or <verdict> hold its own word.
_TAG = re.compile(
    r"<(/?)((?:step|paragraph)[ _-]?[0-9]*|solution|student|quote|blockquote|problem|reference|instructions?|task"
    r"|prompt"
    r"|example)(?![a-z0-9_-])[^<>\n]{0,80}>",
    re.IGNORECASE,
)
# A quotation ends with its paragraph. An apostrophe is no quotation mark: it has a letter on either side.
_MARKS = re.compile(
    r"(?P<straight>\")|(?P<single>(?<![\w'])'(?=\S)|(?<=[^\s'])'(?![\w']))|(?P<code>`)"
    r"|(?P<open>[\u201c\u2018\u00ab\u300c\u300e])|(?P<close>[\u201d\u2019\u00bb\u300d\u300f])|(?P<end>\n[ \t]*+\n)"
)
_PAIRS = {"\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "\u300c": "\u300d", "\u300e": "\u300f"}

Span = tuple[int, int]


def own_words(reply: str) -> str | None:
    """What follows the thinking, up to the end of the turn.

    Args:
        reply: the judge's own turn, verbatim, perhaps with control tokens of its chat template.

    Returns:
        None if the thinking does not end, or if text after an end token holds something like a verdict: it may be
        another turn that the model made up, and so may be what stands before it.
    """
    marks = list(_THINK.finditer(reply))
    if marks:
        if not (marks[-1]["close"] or marks[-1]["final"]):
            return None
        reply = reply[marks[-1].end() :]
    position = 0
    while token := _TURN.match(reply, position):
        after = _ROLE.match(reply, token.end())
        position = after.end() if after else token.end()
    end = _TURN.search(reply, position)
    if end is None:
        return reply[position:]
    rest = reply[end.end() :]
    return None if "\\boxed" in rest or JSON_KEY in rest else reply[position : end.start()]


def unfenced(text: str) -> str:
    """The text without a code fence around all of it."""
    inner = text.strip()
    fences = list(_FENCE.finditer(inner))
    if len(fences) == 2 and fences[0].start() == 0 and fences[1].end() == len(inner):
        return inner[fences[0].end() : fences[1].start()]
    return text


class Quotations:
    """Where a text quotes: blockquotes, repeated tags, quotation marks, code that is more than a verdict.

    Args:
        text: the judge's own turn.
        verdicts: spans that end a fence's or a code span's suspicion if they are all it holds.
    """

    def __init__(self, text: str, verdicts: list[Span]) -> None:
        fences = _fences(text)
        spans = [(match.start(), match.end()) for match in _BLOCKQUOTE.finditer(text)]
        spans += _tagged(text) + _marked(text, verdicts)
        spans += [fence for fence in fences if not _only_a_verdict(text, fence, verdicts)]
        self._spans = _merged(spans)
        self._starts = [start for start, _ in self._spans]

    def hold(self, position: int) -> bool:
        """Whether a position lies in a quotation."""
        place = bisect_right(self._starts, position) - 1
        return place >= 0 and position < self._spans[place][1]


def _merged(spans: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _fences(text: str) -> list[Span]:
    """What stands between fences; the last may stay open."""
    marks = list(_FENCE.finditer(text))
    ends = [mark.start() for mark in marks[1::2]] + [len(text)]
    return [(mark.end(), end) for mark, end in zip(marks[::2], ends, strict=False)]


def _only_a_verdict(text: str, span: Span, verdicts: list[Span]) -> bool:
    """Whether nothing but one verdict, and mark-up of it, stands in a span."""
    place = bisect_right(verdicts, (span[0], -1))
    if place == len(verdicts) or verdicts[place][1] > span[1]:
        return False
    start, end = verdicts[place]
    return not (text[span[0] : start] + text[end : span[1]]).strip(" \t\r\n$*.`")


def _tagged(text: str) -> list[Span]:
    opened: dict[str, int] = {}
    spans: list[Span] = []
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if not tag[1]:
            opened.setdefault(name, tag.start())
        elif name in opened:
            spans.append((opened.pop(name), tag.end()))
    return spans


def _marked(text: str, verdicts: list[Span]) -> list[Span]:
    """Spans between quotation marks, and code spans that hold more than a verdict."""
    opened: dict[str, int] = {}
    spans: list[Span] = []
    for mark in _MARKS.finditer(text):
        kind, position = str(mark.lastgroup), mark.start()
        if kind == "end":
            opened.clear()
            continue
        if kind == "open":
            opened[_PAIRS[mark[0]]] = position
            continue
        kind = mark[0]
        if kind in opened:
            span = opened.pop(kind), position + 1
            if kind != "`" or not _only_a_verdict(text, span, verdicts):
                spans.append(span)
        elif mark.lastgroup != "close":
            opened[kind] = position
    return spans
