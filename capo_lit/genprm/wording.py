"""Words around a verdict, and what each kind says about whose it is: patterns that boxes.py applies to a sentence."""

import re


def _any(words: str) -> str:
    """One pattern of many, which are separated by white space."""
    return "|".join(words.split())


def _compiled(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL)


_WRONG = r"(?:wrong|incorrect|errors?|erroneous|mistakes?|mistaken|flaw\w*|invalid|faulty|faults?|fails?"
_WRONG += r"|(?:not|n't) (?:correct|right|valid|follow|hold))"
_SOMEBODY = _any(
    "students? solution solver author they he she it writer work response proof problem question task prompt template "
    "instructions? text reference somebody someone user system you"
)
_SAYS_SO = _any(
    r"writ\w+ wrote sa(?:y|ys|id|ying) stat(?:e|es|ed|ing) claim\w* conclud\w+ end(?:s|ed|ing)? finish\w* giv\w+ gave "
    r"box\w* puts? answer\w* present\w* contain\w* quot\w+ ask\w* tell\w* told reads? arriv\w+ obtain\w* gets? got "
    r"report\w* shows? want\w* demand\w* require\w* repl\w+"
)
_CHINESE_SPEECH = r"\u5199\u9053|\u8981\u6c42|\u683c\u5f0f|\u4f8b\u5982|\u5982\u679c|\u82e5|\u539f\u6587|\u5f15\u7528"

GOOD = _compiled(
    r"\b(?<!not )(?<!n't )(?:correct|right|valid|fine|sound|accurate|true)\b",
    r"(?<!\u4e0d)(?:\u6b63\u786e|\u65e0\u8bef)",
)
BAD = _compiled(rf"\b{_WRONG}\b", r"\u9519|\u6709\u8bef")
VERDICT = _compiled(
    rf"\b(?:{_WRONG}|verdict|judge?ment)\b", r"\u9519\u8bef?|\u6709\u8bef|\u7ed3\u8bba|\u5224\u65ad|\u6b65\u9aa4"
)
# Somebody else who says something, anywhere in the sentence: the student gets 5+4=8, so ...
OTHERS = _compiled(
    rf"\b(?:{_SOMEBODY})(?:'s)?\b(?:\W+\w+){{0,6}}?\W+(?:{_SAYS_SO})\b",
    r"\b(?:says|said|writes|wrote|quote|quoting|quoted|original|according to)\b",
    r"'s (?:\w+ ){0,2}(?:answer|result|box|value|output|reply|solution|work)\b",
    r"\u5b66\u751f|\u89e3\u7b54|\u9898\u76ee|\u5e94\u8be5?|\u53c2\u8003",
    _CHINESE_SPEECH,
)
# Right before the verdict: it is what somebody says.
SPEECH = _compiled(
    "\\b(?:"
    + _any(
        r"writ(?:es|ing|ten) wrote says said claims claimed concludes concluded ends ended finish(?:es|ed) gives gave "
        r"puts boxe[sd] boxing contains? reads states stated quot\w+ answers answered repl\w+ demands? wants? "
        r"requires? "
        "original"
    )
    + r")\W*(?:(?:"
    + _any(
        "with that to reply respond the a an answer box in line it is final of verdict text out down by as its their "
        "his her me say"
    )
    + r")\b\W*){0,6}\Z",
    r"\b(?:quote|quoting|quoted|according to)\b",
    _CHINESE_SPEECH,
)
ORDERS = _compiled(
    "\\b(?:"
    + _any(
        r"format\w* examples? e\.g instance such\sas instruct\w* asked told supposed required requested expected "
        r"tells? "
        r"injection (?:need|needs|have|has)\sto please finish\swith end\swith enclose\w* remember placeholder "
        r"separated\sby hypothetical\w*"
    )
    + ")\\b",
    r"\b(?:inside|within)\W*\Z",
    r"(?:\A|[,;:.]|\bthen|\band|(?<!like )(?<!will )\bto)\W*(?:write|put|use|give|reply|respond|return|place|wrap)\b",
    r"\b(?:put|write)\w*\b.*\bin\W*\Z",
)
DOUBTS = _compiled(
    "\\b(?:"
    + _any(
        r"if when\s(?:no|all|every|each|nothing|there) unless whether otherwise else maybe perhaps possibly either "
        r"suppose "
        r"assuming instead\sof rather\sthan unsure not\ssure no\slonger or previously at\sfirst initial(?:ly)?"
    )
    + ")\\b",
    r"\b(?:should|must|shall|would|could|might|may)\b(?:\W+[^\W\d]+){0,6}\W*\Z",
    r"(?:\b(?:not|never|neither|nor|no|without)|n't)\W+(?:(?:in|at|the|a|wrong|steps?|paragraphs?|errors?|mistakes?"
    r"|to|be)"
    r"\W+)*\Z",
    r"\u4e0d\u662f\s*\Z|\u53ef\u80fd|\u6216",
)
CORRECTED = _compiled(r"\bcorrect(?:ed)? (?:\w+ )?(?:answer|value|result|version|calculation|total|sum)\b")
MATHS = _compiled(
    "\\b(?:"
    + _any(
        r"answers? results? values? totals? sums? differences? products? quotients? equals? solution correct\w* "
        r"becomes? "
        "gives? yields? makes? get x y n"
    )
    + ")\\b",
    r"[=\u2248<>+/^]|\u7b54\u6848|\u7ed3\u679c|\u7b49\u4e8e|\u5f97\u5230",
)
# Labels of what was worked out, beside those of MATHS.
WORKED_OUT = _compiled(
    "\\b(?:"
    + _any(
        r"final (?:re)?(?:comput|calculat|check|work)\w* simplif\w* evaluat\w* verif\w* redo\w* redone got obtain\w* "
        "find found number amount"
    )
    + ")\\b"
)
COUNT = _compiled(
    r"\b(?:number of (?:\w+ ){0,2}(?:steps|errors|mistakes)|how many|i count|total|score|confidence|probability)\b",
    r"\bthere (?:is|are)\W*\Z",
)
# A label of what follows, and no sentence about the problem.
OWN_ANSWER = _compiled(
    r"\W*(?:(?:so|thus|therefore|hence|and|my|the|final|short) ?,? ?)*answer\W*",
    r".*\bmy (?:final )?answer(?: is)?\W*",
    r"\W*\u6700\u7ec8\u7b54\u6848\W*",
)
LABEL_END = _compiled(r"\b(?:steps?|paragraphs?)\W*\Z")
STEP_NUMBER = _compiled(
    r"(?:steps?|paragraphs?)[\s_#.:-]*([0-9]{1,9})(?![0-9])", r"(?:\u7b2c|\u6b65\u9aa4)\s*([0-9]{1,9})(?![0-9])"
)

# What follows a verdict: step \boxed{1} is wrong.
CALLS_WRONG = _compiled(
    rf"\W*(?:is|are|was|were|has|have|contains?) (?:\w+ ){{0,2}}{_WRONG}\b(?<!not wrong)(?<!no error)"
)
DISOWNS = _compiled(
    r"\W*(?:(?:wrong|incorrect|right|correct) )?(?:(?:steps|errors?|mistakes?|paragraphs)\b|step\b(?! ?[0-9]))",
    r"\W*(?!(?:is|are|as) (?:my|the (?:verdict|wrong|incorrect|faulty|first wrong))\b)(?:"
    + _any(
        r"is was are were would could should might may if when unless means? meant appears? appeared stands? comes? "
        r"as\san? as\sthe\s(?:final\s)?(?:answer|result) says? said writes wrote which from of by or "
        r"in\s(?:the|their|his|her|step) at\sthe\send for\s(?:the|no|all) instead units?"
    )
    + ")\\b",
    r"\s*(?:[+=^]|/(?!/))",
    r"\W*\u662f(?!\u6211)",
)
# A verdict that one of these follows was taken back, or may have been.
RETRACTS = _compiled(
    "\\b(?:"
    + _any(
        r"wait on\ssecond\sthou?ghts? scratch\sthat correction take\s(?:it|that|this)\sback let\sme\s(?:re\w+"
        r"|correct|double) "
        r"i\swas\swrong my\smistake never\s?mind"
    )
    + ")\\b",
    r"(?:\A|[.!?\n,])\W{0,5}(?:actually|hmm+|no|oops|sorry)\b(?! (?:step|other|further|error|mistake|more))",
    r"\u7b49\u7b49|\u66f4\u6b63",
)

_NEUTRAL = frozenset(
    _any(
        "so thus therefore hence finally overall conclusion in at on the a an and my our final verdict output is are "
        "was were "
        "i we conclude report pick choose say judge answer believe think ll will write put to sum summarise "
        "summarize up "
        "first only last list here this that these step steps paragraph paragraphs index indices number numbers s of "
        "occurs "
        "found located lies judgment judgement done summary result decision have has which for be namely wrong "
        "incorrect "
        "error errors mistake mistakes then second third also another next ones one analysis review me flag flagged "
        "as am "
        "critique"
    ).split("|")
)
_WORD = re.compile(r"[^\W_]+")


def neutral(lead: str) -> bool:
    """Whether words lead to a verdict and say nothing else."""
    words = _WORD.findall(STEP_NUMBER.sub(" ", lead).lower())
    return all(word in _NEUTRAL or not word.isascii() for word in words)
