r"""The boxes of a reply, \boxed{...}, and what the words around each make of it.

A box is a verdict where it stands alone, or where the words before it say that it names wrong steps. One that belongs
to somebody else (the student writes \boxed{2}), to the instruction (write \boxed{none}), to a condition (if step 1 is
wrong, \boxed{1}) or to the mathematics (5-2=\boxed{3}) is none.
"""

import re
from dataclasses import dataclass
from enum import Enum

_PIECE = re.compile(r"(?<!\\)\\++boxed(?![A-Za-z])\s*+(\{?)|\\.|[{}]", re.DOTALL)
# Words further away say nothing about a box, and the bound keeps hostile replies linear.
_WINDOW = 400

_MARKUP = r"[\s*_`$~#\u2022]|\\[()\[\],;! ]|\\(?:quad|displaystyle)(?![a-z])|</?(?:answer|verdict|b|strong|center|p|br)/?>"
_BEFORE = re.compile(rf"(?:`{{3}}[a-z]*|\\boxed\s*\{{|{_MARKUP})+\Z", re.IGNORECASE)
_ONLY_MARKUP = re.compile(rf"(?:{_MARKUP}|[.\u3002!\-\u2013\u2014]|[`~]{{3,}}\w*)*\Z", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?](?=[\s*_)]|\Z)|[\u3002\uff01\uff1f\n]|<br>")
_HEADING = re.compile(r"\s*(?:#{1,6} .*|\*\*[^*]+\*\*:?|__[^_]+__:?)\s*")
_OPEN_END = re.compile(
    r"(?:[:\uff1a,\uff0c=\u2014\u2013-]|\b(?:is|are|be|with|as|by|in|writes?|wrote|says?|said|states?|concludes?|gets?|answer"
    r"|reads?|following|to|a|the|that|and|box(?:es)?))[\s*_`$]*\Z",
    re.IGNORECASE,
)

_BAD = r"(?:wrong|incorrect|errors?|erroneous|mistakes?|mistaken|flaw\w*|invalid|faulty|faults?|fails?|(?:not|n't) (?:correct|right|valid|follow|hold))"
_GOOD = re.compile(r"\b(?<!not )(?<!n't )(?:correct|right|valid|fine|sound|accurate|true)\b|(?<!\u4e0d)\u6b63\u786e", re.IGNORECASE)
_BAD_WORD = re.compile(rf"\b{_BAD}\b|\u9519|\u6709\u8bef", re.IGNORECASE)
_VERDICT_WORD = re.compile(
    rf"\b(?:{_BAD}|verdict|judge?ment)\b|\u9519\u8bef?|\u6709\u8bef|\u7ed3\u8bba|\u5224\u65ad|\u6b65\u9aa4", re.IGNORECASE
)
_OTHERS = re.compile(
    r"\b(?:students?|solution|solver|author|they|he|she|it|writer|work|response|proof|problem|question|task|prompt|template"
    r"|instructions?|text|reference|somebody|someone|user|system|you)(?:'s)?\b(?:\W+\w+){0,6}?\W+(?:writ\w+|wrote|sa(?:y|ys|id|ying)"
    r"|stat(?:e|es|ed|ing)|claim\w*|conclud\w+|end(?:s|ed|ing)?|finish\w*|giv\w+|gave|box\w*|puts?|answer\w*|present\w*|contain\w*|quot\w+"
    r"|ask\w*|tell\w*|told|reads?|arriv\w+|obtain\w*|gets?|got|report\w*|shows?|want\w*|demand\w*|require\w*|repl\w+)\b"
    r"|\b(?:says|said|writes|wrote|quote|quoting|quoted|original|according to)\b|'s (?:\w+ ){0,2}(?:answer|result|box|value|output|reply|solution|work)\b"
    r"|\u5b66\u751f|\u89e3\u7b54|\u9898\u76ee|\u5199\u9053|\u8981\u6c42|\u683c\u5f0f|\u4f8b\u5982|\u5982\u679c|\u82e5|\u5e94\u8be5?|\u539f\u6587|\u53c2\u8003|\u5f15\u7528",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"\b(?:format\w*|examples?|e\.g|instance|such as|instruct\w*|asked|told|supposed|required|requested|(?:need|needs|have|has) to|please"
    r"|finish with|end with|enclose\w*|remember|placeholder|separated by|hypothetical\w*)\b|\b(?:inside|within)\W*\Z"
    r"|(?:\A|[,;:.]|\bthen|\band|(?<!like )(?<!will )\bto)\W*(?:write|put|use|give|reply|respond|return|place|wrap)\b|\b(?:put|write)\w*\b.*\bin\W*\Z",
    re.IGNORECASE | re.DOTALL,
)
# Right before the box: the box is what somebody says.
_SPEECH = re.compile(
    r"\b(?:writ(?:es|ing|ten)|wrote|says|said|claims|claimed|concludes|concluded|ends|ended|finish(?:es|ed)|gives|gave|puts|boxe[sd]|boxing|contains?"
    r"|reads|states|stated|quot\w+|answers|answered|repl\w+|demands?|wants?|requires?|original)\W*"
    r"(?:(?:with|that|the|a|an|answer|box|in|line|it|is|final|of|verdict|text|out|down|by|as|its|their|his|her)\b\W*){0,6}\Z"
    r"|\b(?:quote|quoting|quoted|according to)\b|\u5199\u9053|\u8981\u6c42|\u683c\u5f0f|\u4f8b\u5982|\u5982\u679c|\u82e5|\u539f\u6587|\u5f15\u7528",
    re.IGNORECASE,
)
_CORRECTED = re.compile(r"\bcorrect(?:ed)? (?:\w+ )?(?:answer|value|result|version|calculation|total|sum)\b", re.IGNORECASE)
_DOUBTS = re.compile(
    r"\b(?:if|when (?:no|all|every|each|nothing|there)|unless|whether|otherwise|else|maybe|perhaps|possibly|either|suppose|assuming|instead of"
    r"|rather than|unsure|not sure|no longer|or|previously|at first|initially)\b"
    r"|\b(?:should|must|shall|would|could|might|may)\b(?:\W+[^\W\d]+){0,6}\W*\Z"
    r"|(?:\b(?:not|never|neither|nor|no|without)|n't)\W+(?:(?:in|at|the|a|wrong|steps?|paragraphs?|errors?|mistakes?|to|be)\W+)*\Z"
    r"|\u4e0d\u662f\s*\Z|\u53ef\u80fd|\u6216",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\b(?:answers?|results?|values?|totals?|sums?|differences?|products?|quotients?|equals?|solution|correct\w*|becomes?|gives?|yields?|makes?"
    r"|get|total|x|y|n)\b(?!:? ?\bto this task)|[=\u2248<>+/^]|\u7b54\u6848|\u7ed3\u679c|\u7b49\u4e8e|\u5f97\u5230",
    re.IGNORECASE,
)
_OWN_ANSWER = re.compile(
    r"\W*(?:(?:so|thus|therefore|hence|and|my|the|final|short) ?,? ?)*answer\W*|.*\bmy (?:final )?answer(?: is)?\W*|\W*\u6700\u7ec8\u7b54\u6848\W*",
    re.IGNORECASE | re.DOTALL,
)
_NEUTRAL = frozenset(
    "so thus therefore hence finally overall conclusion in at on the a an and my our final verdict output is are was were i we "
    "conclude report pick choose say judge answer believe think ll will write put to sum summarise summarize up first first only last last "
    "list here this that these step steps paragraph paragraphs index indices number numbers s of occurs found located lies judgment "
    "judgement done summary result decision have has which i'll for be namely wrong incorrect error errors mistake mistakes then "
    "second third also another next ones one analysis review me my flag flagged as am critique".split()
)
_WORD = re.compile(r"[^\W_]+")
_STEP_NUMBER = re.compile(r"(?:steps?|paragraphs?)[\s_#.:-]*([0-9]{1,9})(?![0-9])|\u7b2c\s*([0-9]{1,9})\s*\u6b65", re.IGNORECASE)
_TAIL = re.compile(
    r"\W*(?!(?:is|are|as) (?:my|the (?:verdict|wrong|incorrect|faulty|first wrong))\b)(?:is|was|are|were|would|could|should|might|may|if|when"
    r"|unless|means?|meant|appears?|appeared|stands?|comes?|as an?|as the (?:final )?(?:answer|result)|says?|said|writes|wrote|which|from|of|by|or|in (?:the|their|his|her|step)"
    r"|at the end|for (?:the|no|all)|instead|units?)\b|\s*[+=/^]|\W*\u662f(?!\u6211)",
    re.IGNORECASE,
)
# A verdict that one of these follows was taken back, or may have been.
_RETRACTS = re.compile(
    r"\b(?:wait|on second thou?ghts?|scratch that|correction|take (?:it|that|this) back|let me (?:re\w+|correct|double)|i was wrong|my mistake"
    r"|never ?mind)\b|(?:\A|[.!?\n,])\W{0,5}(?:actually|hmm+|no|oops|sorry)\b(?! (?:step|other|further|error|mistake|more))|\u7b49\u7b49|\u66f4\u6b63",
    re.IGNORECASE,
)
_JOIN = re.compile(rf"(?:{_MARKUP}|[,;\u3001\uff0c&]|and\b|also\b|\u548c)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    """One box without a box in it.

    Attributes:
        content: what stands between its braces.
        start: where it begins in the text, at the backslash.
        end: where the text after it begins.
    """

    content: str
    start: int
    end: int


class Standing(Enum):
    """What the words around a box make of it."""

    NOT = "somebody else's, an instruction, a condition: no verdict whatever it holds"
    NUMBER = "a verdict if it holds words or agrees with the text; a bare number may be one of the problem's"
    OWN = "a verdict"
    NAMED = "a verdict that words like `wrong steps` introduce"


def boxes_of(text: str) -> list[Box] | None:
    """The innermost boxes, in order; None if the last one that opens does not close."""
    found: list[Box] = []
    # Of each open brace: where its box begins, or -1; and where its content does.
    stack: list[tuple[int, int]] = []
    last, last_closed = -1, True
    for piece in _PIECE.finditer(text):
        if "boxed" in piece[0]:
            last, last_closed = piece.start(), False
            if piece[1]:
                stack.append((last, piece.end()))
        elif piece[0] == "{":
            stack.append((-1, 0))
        elif piece[0] == "}" and stack:
            start, inner = stack.pop()
            if start >= 0 and start == last:
                found.append(Box(text[inner : piece.start()], start, piece.end()))
                last_closed = True
    return found if last_closed else None


def last_box(text: str) -> str | None:
    """Content of the last box; None if there is none, or it does not close."""
    boxes = boxes_of(text)
    return boxes[-1].content if boxes else None


def lead_of(text: str, start: int, floor: int = 0) -> tuple[str, bool]:
    """The words that lead to a place: those of its sentence, or of an open line before it.

    Args:
        text: the judge's own turn.
        start: of the place.
        floor: where the last verdict before it ends.

    Returns:
        The words; and whether the place begins its line, but for mark-up.
    """
    begin = max(floor, start - _WINDOW)
    before = _BEFORE.sub("", text[begin:start])
    gap = text[begin + len(before) : start]
    if before and "\n" not in gap:
        return _sentence(before), False
    line = before.rpartition("\n")[2]
    # Fences and list marks say nothing; a line that is not finished goes on here.
    if _OPEN_END.search(line) or _HEADING.fullmatch(line):
        return _sentence(line), not line
    return "", True


def _sentence(text: str) -> str:
    end = 0
    for match in _SENTENCE.finditer(text):
        end = match.end()
    return text[end:]


def standing(text: str, box: Box, floor: int, numbers: frozenset[int] | None) -> Standing:
    """What the words around a box make of it.

    Args:
        text: the judge's own turn.
        box: of it.
        floor: where the box before it ends.
        numbers: the steps that the box names, as the judge counts them; None if it is not understood.
    """
    lead, _ = lead_of(text, box.start, floor)
    tail = _after(text, box.end)
    if foreign(lead) or _TAIL.match(tail):
        return Standing.NOT
    # Words like `none` are a verdict also in a sentence about the student's answer, a bare number is not.
    if numbers and (_OTHERS.search(lead) or _CORRECTED.search(lead)):
        return Standing.NOT
    if _GOOD.search(lead) and not _BAD_WORD.search(lead) and numbers != frozenset():
        return Standing.NOT
    if not box.content.strip() and lead and not re.search(r"(?:[:\uff1a]|\b(?:is|are))[\s*]*\Z", lead):
        return Standing.NOT
    return _own(text, box, floor, lead, numbers)


def foreign(lead: str) -> bool:
    """Whether words say that what follows is no verdict of the judge."""
    return any(pattern.search(lead) for pattern in (_SPEECH, _ORDERS, _DOUBTS))


def _own(text: str, box: Box, floor: int, lead: str, numbers: frozenset[int] | None) -> Standing:
    if not lead.strip() or _ONLY_MARKUP.match(lead):
        return Standing.OWN
    if named_before(text, box, floor, numbers):
        return Standing.NAMED
    if _OWN_ANSWER.fullmatch(lead):
        return Standing.OWN
    verdict = None
    for match in _VERDICT_WORD.finditer(lead):
        verdict = match
    rest = lead if verdict is None else lead[verdict.end() :]
    if _MATHS.search(rest) or not _neutral(rest):
        return Standing.NUMBER
    return Standing.NAMED if verdict else Standing.OWN


def _neutral(lead: str) -> bool:
    """Whether words lead to a verdict and say nothing else."""
    words = _WORD.findall(_STEP_NUMBER.sub(" ", lead).lower())
    return all(word in _NEUTRAL or not word.isascii() for word in words)


def named_before(text: str, box: Box, floor: int, numbers: frozenset[int] | None) -> bool:
    """Whether the text just before a box calls exactly its steps wrong."""
    if not numbers:
        return False
    line = text[max(floor, box.start - _WINDOW) : box.start].rpartition("\n\n")[2]
    said: set[int] = set()
    for sentence in re.split(r"[.!?;](?=\s)|[\n\u3002]", line):
        if _BAD_WORD.search(sentence) and not _GOOD.search(sentence) and not foreign(sentence) and not _OTHERS.search(sentence):
            said.update(int(number[1] or number[2]) for number in _STEP_NUMBER.finditer(sentence))
    return numbers == said


def disowned(text: str, start: int, end: int) -> bool:
    """Whether the words around an object say that it is no verdict of the judge."""
    return foreign(lead_of(text, start)[0]) or _TAIL.match(_after(text, end)) is not None


def retracted(text: str, end: int) -> bool:
    """Whether what follows a verdict takes it back, or may."""
    return _RETRACTS.search(text[end:]) is not None


def joined(text: str, box: Box, other: Box) -> bool:
    """Whether two boxes are items of one list: nothing but a comma or `and` between them."""
    between = text[box.end : other.start]
    return len(between) < _WINDOW and _JOIN.fullmatch(between) is not None and re.search(r"[,;\u3001\uff0c&]|and|\u548c", between) is not None


def _after(text: str, end: int) -> str:
    """What the sentence says after a box."""
    line = text[end : end + _WINDOW].partition("\n")[0]
    line = re.sub(r"\A(?:[*_`$~]|\\[)\]])+", "", line)
    if line[:1] in (".", "\u3002", "!", "?"):
        return ""
    return line
