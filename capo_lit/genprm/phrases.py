"""Verdicts in words, English and Chinese, brought down to `none`, `all` or a list of steps."""

import re

NOTHING = "none"
ALL = "all"
# Longer contents are prose, which no pattern here is for.
_MAX_CHARS = 400

# Full-width forms and their plain ones; superscripts and the like stay what they are, for 3\u00b2 is not 32.
_WIDE = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x3001: 0x2C, 0x3002: 0x2E}
_WRAPPER = re.compile(r"\\(?:text|math|operatorname)[a-z]*\s*\{")
_MARKUP = re.compile(r"\\[ ,;:!]|\\(?:left|right|quad|qquad)(?![a-z])|[{}$*`\"#~]")
_SPACE = re.compile(r"\s+")
# 1! is another number than 1.
_END = re.compile(r"(?<=[^\W\d_])[.!]+$|(?<![.])\.$")

_NUMERAL = "\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341"
_VALUES = {char: value for value, char in enumerate(_NUMERAL)}
# \u7b2c1\u6b65, \u7b2c\u4e00\u3001\u4e09\u6b65; \u6b65\u9aa41, \u6b65\u9aa4\u4e00.
_ORDINAL = re.compile(
    rf"\u7b2c([0-9{_NUMERAL},\s\u548c\u4e0e\u53ca\u5230\u81f3\u4ee5\u7b2c-]+?)"
    r"(?:\u4e2a)?(?:\u6b65(?:\u9aa4)?|\u6bb5(?:\u843d)?)"
)
_LABELLED = re.compile(rf"(?:\u6b65\u9aa4|\u6bb5\u843d)\s*([{_NUMERAL}]+)")
_NUMERALS = re.compile(rf"[{_NUMERAL}]+")
_CHINESE = (
    (re.compile(r"^\u9519\u8bef(?:\u51fa\u73b0|\u53d1\u751f)?\u5728"), "error in "),
    (re.compile(r"\u9519\u8bef\u7684?(?:\u6b65\u9aa4|\u6bb5\u843d)\s*(?:\u4e3a|\u662f|\u6709|:)*"), "wrong steps: "),
    (re.compile(r"(?:\u6b65\u9aa4|\u6bb5\u843d)"), " step "),
    (re.compile(r"\u4ee5\u53ca|[\u548c\u4e0e\u53ca]"), " and "),
    (re.compile(r"[\u5230\u81f3]"), " to "),
    (
        re.compile(
            r"(?<![\u6ca1\u65e0\u4e0d\u672a\u6709])(?:\u90fd|\u5747)?(?:\u662f|\u6709|\u5b58\u5728|\u51fa\u73b0)?"
            r"(?:\u8ba1\u7b97)?(?:\u9519\u8bef|\u6709\u8bef|\u9519\u4e86|\u51fa\u9519|\u4e0d\u6b63\u786e"
            r"|\u4e0d\u5bf9|\u9519)\u7684?$"
        ),
        " is wrong",
    ),
)
_CHINESE_NOTHING = re.compile(
    r"(?:\u9519\u8bef\u7684?\u6b65\u9aa4[:\u4e3a\u662f\s]*)?\u65e0"
    r"|(?:\u6240\u6709\u6b65\u9aa4|\u6b65\u9aa4|\u89e3\u7b54|\u8be5\u89e3\u7b54"
    r"|\u6574\u4e2a\u89e3\u7b54)?\s*(?:\u4e2d|\u91cc)?"
    r"(?:\u5e76?\u6ca1\u6709?|\u65e0|\u672a|\u4e0d\u5b58\u5728)(?:\u53d1\u73b0|\u51fa\u73b0)?(?:\u4efb\u4f55)?"
    r"(?:\u9519\u8bef\u7684?\u6b65\u9aa4|\u6b65\u9aa4(?:\u662f|\u6709|\u51fa\u73b0)?\u9519\u8bef\u7684?|\u9519\u8bef"
    r"|\u9519|\u6709\u8bef)"
    r"|\u6ca1\u6709|\u65e0\u8bef"
    r"|(?:(?:\u6240\u6709|\u5168\u90e8|\u6bcf\u4e2a|\u5404\u4e2a?)\u7684?\u6b65\u9aa4(?:\u5168\u90e8"
    r"|[\u5168\u90fd\u5747\u7686])?"
    r"|\u6bcf\u4e00?\u6b65[\u5168\u90fd\u5747\u7686]|\u6b65\u9aa4(?:\u5168\u90e8|[\u5168\u90fd\u5747\u7686])"
    r"|\u5168\u90e8|[\u5168\u90fd\u5747\u7686])\u662f?(?:\u6b63\u786e|\u5bf9|\u65e0\u8bef|\u6ca1\u6709\u9519\u8bef"
    r"|\u6ca1\u9519)\u7684?"
)
_CHINESE_ALL = re.compile(
    r"(?:(?:\u6240\u6709|\u5168\u90e8|\u6bcf\u4e2a|\u6bcf\u4e00?)\u7684?(?:\u4e2a)?\u6b65\u9aa4?)"
    r"(?:\u90fd|\u5168|\u5747|\u5168\u90e8)?\u662f?(?:\u6709)?(?:\u9519\u8bef|\u9519|\u9519\u4e86|\u6709\u8bef"
    r"|\u4e0d\u6b63\u786e)?\u7684?"
    r"|\u5168\u90e8(?:\u90fd|\u5747)?\u662f?(?:\u9519\u8bef|\u9519|\u9519\u4e86|\u6709\u8bef"
    r"|\u4e0d\u6b63\u786e)?\u7684?|(?:\u5168|\u90fd)\u662f?\u9519\u4e86?\u7684?"
)

_FAULT = r"(?:errors?|mistakes?|flaws?|issues?|problems?|faults?)"
_BAD = r"(?:wrong|incorrect|invalid|flawed|erroneous|faulty|false|not (?:correct|right|valid))"
_GOOD = r"(?:correct|right|valid|fine|sound|ok(?:ay)?|error[- ]free|accurate)"
_KIND = (
    r"(?:(?:first|only|main|arithmetic|calculation|computation(?:al)?|algebra(?:ic)?|sign|logic(?:al)?|conceptual) )"
)
_STEP = r"(?:steps?|paragraphs?)"
_BE = r"(?:is|are|was|were)"
_FOUND = r"(?: (?:were |was |are |is |have been |has been )?(?:found|detected|identified|present|there|here))?"
_WHERE = (
    rf"(?: (?:in|among|with) (?:any|all)(?: of)?(?: the| these| those)? {_STEP}"
    r"| (?:in|with) (?:the )?(?:solution|work))?"
)
_HOW = r"(?:all |both |entirely |fully |completely |mathematically |logically )?"
_NOTHING_WORDS = (
    rf"(?:there (?:is|are) )?(?:no|0|zero|not any) (?:{_BAD} {_STEP}|{_FAULT}|{_STEP} (?:{_BE} |has |have |with "
    rf"|contains? )"
    rf"(?:any )?(?:{_BAD}|{_FAULT})){_FOUND}{_WHERE}",
    rf"(?:none|no {_STEP})(?: of (?:the(?:se|m)? ?|those )?{_STEP}?)?(?: {_BE} {_BAD}| (?:has|have|contains?) (?:any "
    rf"|an )?{_FAULT})?",
    rf"(?:none|nothing)(?: {_BE})?(?: {_BAD}| found)?",
    rf"(?:there (?:is|are) )?none of (?:the |these )?{_STEP}(?: {_BE} {_BAD})?",
    rf"(?:all|every|each)(?: of)?(?: the| these| them)?(?: {_STEP})?(?: {_BE})? {_HOW}{_GOOD}",
    rf"everything {_BE} {_HOW}{_GOOD}",
    rf"(?:the )?(?:(?:whole|entire) )?solution is {_HOW}{_GOOD}",
    rf"{_BAD} {_STEP}:? (?:are )?(?:none|nothing|zero)",
    rf"{_FAULT}: (?:none|zero)",
    rf"error[- ]free|without (?:any )?{_FAULT}",
    "zero",
)
_ALL_WORDS = (
    rf"(?:{_BAD} {_STEP}:? )?(?:all(?: of)?(?: the| these| them)?(?: {_STEP})?|(?:every|each) {_STEP})"
    rf"(?:(?: {_BE})? (?:all )?{_BAD})?",
    rf"everything {_BE} {_BAD}",
    rf"(?:an )?{_FAULT} in (?:all|every|each)(?: of)?(?: the)? {_STEP}",
    rf"(?:all|every|each)(?: of)?(?: the)? {_STEP} (?:has|have|contains?) (?:an )?{_FAULT}",
)
_NOTHING_PHRASE = re.compile("|".join(f"(?:{words})" for words in _NOTHING_WORDS))
_ALL_PHRASE = re.compile("|".join(f"(?:{words})" for words in _ALL_WORDS))

_SAID_TWICE = re.compile(r"(?:none|no|-1|\[\])\s*[(:,-]\s*([^()]*?)\)?")
_PREFIX = re.compile(
    rf"(?:(?:only|just) (?={_STEP})|(?:there (?:is|are) )?(?:an? |the )?{_KIND}*{_FAULT}(?: {_BE}| occurs?| made| "
    rf"found)?"
    rf"(?: (?:in|at|on)(?= )|:(?= ?{_STEP}))"
    rf"|(?:the )?(?:only |first )?{_BAD} {_STEP}(?: {_BE}|:)"
    rf"|{_BAD}:)\s*(?=(?:the )?(?:{_STEP}|[0-9(\[]))(?:the (?={_STEP}))?"
)
_SUFFIX = re.compile(
    rf"(?: {_BE})?(?: both| all)? {_BAD}| (?:has|have|contains?|makes?|with|-) ?(?:an? )?{_KIND}?{_FAULT}"
)
_REMARK = re.compile(r"(?<=[0-9])\s*\(([^()]*)\)|(?<=[0-9])\s*\[([^\[\],]*[a-z][^\[\],]*)\]")
_SINGLE = re.compile(rf"({_STEP}?[ _#.-]?[0-9]+)\s*(?::| [-\u2013\u2014] )\s*(.+)")
_FAULT_WORD = re.compile(rf"\b(?:{_FAULT}|wrong|incorrect|invalid|mis\w+|unjustified|erroneous|false)\b|\u9519|\u8bef")
# A remark that clears its step, doubts it, or brings in another one.
_FAULT_KIND = re.compile(
    rf"\b(?:{_FAULT}|wrong|incorrect\w*|invalid|false|slips?|typos?|mis\w+|erroneous|unjustified|unsupported"
    rf"|unproven|unfounded|sign|arithmetic"
    r"|calculation|computation|algebra\w*|logic\w*|formula|addition|subtraction|multiplication|division|missing"
    r"|omit\w*|forg[eo]t\w*|dropped|lost"
    r"|skipped|assum\w+|contradict\w*|inconsistent|incomplete|fails?|carry|carried|rounding|reasoning|conclusion"
    r"|conceptual|substitution"
    r"|factor\w*|(?:does|do|did) not (?:follow|hold|equal|match)|not (?:simplified|equal|justified|proven|correct"
    r"|right|valid|true|follow\w*)"
    r"|should be|instead of)\b|[=\u2260\u9519\u8bef]"
)
_UNSURE = re.compile(
    r"(?<!not )\b(?:correct|right|ok(?:ay)?|fine|valid|sound|true|accurate)\b|\b(?:if|or|and|also|maybe|perhaps"
    r"|possibly|sure"
    r"|probably|unsure|uncertain|might|may|could|steps?|paragraphs?|through|but|free)\b|\bnot (?:an? |really )?"
    rf"(?:{_FAULT}|wrong|incorrect)|\bno (?:{_FAULT}|wrong)|\?|(?<!\u4e0d)\u6b63\u786e|\u6ca1|\u65e0\u8bef"
    rf"|\u53ef\u80fd|\u548c|\u4e5f"
)
_EQUATION = re.compile(r"=|\u2260|should be|instead of|\bnot [0-9]")


def plain(content: str, num_steps: int) -> str | None:
    """A content in words, without its words.

    Args:
        content: what stands in the box.
        num_steps: steps there are, which "all 5 steps" must agree with.

    Returns:
        `none`, `all`, or what is left to be read as a list; None if the words are not understood, or there are none.
    """
    if len(content) > _MAX_CHARS or any(mark in content for mark in ("{,}", "\\{", "\\}")):
        return None
    text = _flat(content)
    if repeated := _SAID_TWICE.fullmatch(text):
        return NOTHING if _NOTHING_PHRASE.fullmatch(repeated[1]) else None
    text = re.sub(rf"\ball(?: of)?(?: the)? {num_steps} (?={_STEP})", "all ", text)
    bare = text.replace(" ", "")
    if _NOTHING_PHRASE.fullmatch(text) or _CHINESE_NOTHING.fullmatch(bare):
        return NOTHING
    if _ALL_PHRASE.fullmatch(text) or _CHINESE_ALL.fullmatch(bare):
        return ALL
    english = _flat(_english(text))
    shorter = _without_remarks(english)
    if shorter is None:
        return None
    shorter = _without_frame(shorter)
    return shorter if shorter != content.lower() else None


def _flat(content: str) -> str:
    """Lower case, plain characters, no mark-up, single spaces, no full stop at the end."""
    text = _MARKUP.sub(" ", _WRAPPER.sub(" ", content.lower().translate(_WIDE)))
    return _END.sub("", _SPACE.sub(" ", text).strip())


def _english(text: str) -> str:
    """Labels, conjunctions and numerals of a Chinese list in English; what else is Chinese stays, and is refused."""
    text = _ORDINAL.sub(lambda match: f" step {_digits(match[1])} ", text)
    text = _LABELLED.sub(lambda match: f" step {_digits(match[1])} ", text)
    for pattern, english in _CHINESE:
        text = pattern.sub(english, text)
    return text


def _digits(text: str) -> str:
    return _NUMERALS.sub(lambda match: _value(match[0]), text.replace("\u7b2c", ""))


def _value(numeral: str) -> str:
    """Digits of a numeral up to 99; itself if it is none."""
    tens, ten, ones = numeral.rpartition("\u5341")
    if len(tens) > 1 or len(ones) > 1:
        return numeral
    if not ten:
        return str(_VALUES[ones])
    return str(10 * (_VALUES[tens] if tens else 1) + (_VALUES[ones] if ones else 0))


def _without_remarks(text: str) -> str | None:
    """Without what stands in brackets after an index, if that only says what is wrong there; else None."""
    for remark in _REMARK.finditer(text):
        if not _harmless(remark[1] if remark[1] is not None else remark[2]):
            return None
    return _REMARK.sub("", text)


def _harmless(remark: str) -> bool:
    """Whether a remark speaks of the step before it, and of no other."""
    if _UNSURE.search(remark) or not _FAULT_KIND.search(remark):
        return False
    return not re.search("[0-9]", remark) or _EQUATION.search(remark) is not None


def _without_frame(text: str) -> str:
    """Without the words that say that what they frame is wrong: error in step 1, step 1 is wrong, step 1: sign "
    "error."""
    if single := _SINGLE.fullmatch(text):
        return single[1] if _FAULT_WORD.search(single[2]) and _harmless(single[2]) else text
    if prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    for suffix in _SUFFIX.finditer(text):
        if suffix.end() == len(text):
            return text[: suffix.start()]
    return text
