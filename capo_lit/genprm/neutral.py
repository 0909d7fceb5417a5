"""Make text of unknown origin harmless for the judge: no step tag and no chat-template control token survives in it.

Only the judge's copy is changed, and only where it must be: brackets of step tags become round ones, every other tag
and control token is broken by one visible space, and ordinary mathematics (`a < b`, `x <y`, `[1, 2]`) stays as it is.
"""

import re
import unicodedata

# One invisible character in the skeleton stands for any that is not seen: zero-width, combining, bidirectional marks.
_UNSEEN = "\u200b"
# Brackets that look like < and > but have honest uses of their own; they matter only around the word "step".
_SOFT_OPEN, _SOFT_CLOSE = "\u2039", "\u203a"
_LOOKALIKES = {
    **dict.fromkeys("\u00ab\u3008\u27e8\u300a\u27ea\u02c2\u1438\u276e\u2770\u29fc\u226a\u2329\u25c1", _SOFT_OPEN),
    **dict.fromkeys("\u00bb\u3009\u27e9\u300b\u27eb\u02c3\u1433\u276f\u2771\u29fd\u226b\u232a\u25b7", _SOFT_CLOSE),
    **dict.fromkeys("\u0455\ua731\u0405", "s"),
    **dict.fromkeys("\u0442\u0422\u03c4\u03a4\u1d1b", "t"),
    **dict.fromkeys("\u0435\u0415\u03b5\u0395\u1d07\u0451", "e"),
    **dict.fromkeys("\u0440\u0420\u03c1\u03a1\u1d18", "p"),
    **dict.fromkeys("\u2044\u2215\u29f8\\", "/"),
    **dict.fromkeys("\uff5c\u00a6\u2223\u01c0\u2758", "|"),
    **dict.fromkeys("\u115f\u1160\u2800\u3164\uffa0", _UNSEEN),
}

_STEP = rf"s{_UNSEEN}*t{_UNSEEN}*e{_UNSEEN}*p"
_OPEN = rf"[<{_SOFT_OPEN}]"
_GAP = rf"[\s{_UNSEEN}/]*+"
# <step ...> with its end in sight, and <step 3 with no end. "x < step size and y > 0" is neither.
_STEP_TAG = re.compile(
    rf"({_OPEN})(?!\s++{_STEP}s?\s++[a-z]){_GAP}{_STEP}[^<>{_SOFT_OPEN}{_SOFT_CLOSE}\n]{{0,80}}([>{_SOFT_CLOSE}])"
)
_STEP_NUMBER = re.compile(rf"({_OPEN}){_GAP}{_STEP}s?[\s{_UNSEEN}_:#=.-]*+\d")
_STEP_START = re.compile(rf"({_OPEN}){_UNSEEN}*+(?=/?{_UNSEEN}*{_STEP})")

_SQUARE = (
    "inst|sys|system|system_prompt|available_tools|tool_calls|tool_results|tool_content|think|model_settings|args|"
    "call_id|g?mask|smask|cls|sep|pad|unk|bos|eos|bot|eot|begin_audio|audio|img|img_end|img_break|prefix|suffix|"
    "middle|end|unused_token_\\d+|control_\\d+"
)
# After each of these a space goes in. Control tokens are exact strings, so one space is enough to break them.
_BREAKS = (
    re.compile(
        r"<(?=[^\s<>=-][^\s<>]*>)"
    ),  # not <=> or <->, but <s>, </s>, <think>, <|im_start|>, <start_of_turn>, <<SYS>>
    re.compile(rf"<(?={_UNSEEN}*+\|)"),  # <| without its end
    re.compile(rf"\|(?={_UNSEEN}*+>)"),
    re.compile(rf"{_SOFT_OPEN}(?=/?think{_SOFT_CLOSE})"),  # think between triangles
    re.compile(rf"\[(?=/?(?:{_SQUARE})\])"),  # [INST], [/INST], [gMASK]
    re.compile(r"\[(?=\|[^\s|]+\|\])"),  # [|user|]
    re.compile(r"[\[\]](?=~)|~(?=\[)"),  # ]~b]
)


class _Skeleton(dict[int, str]):
    """Every character as the one plain lower-case character it can pass for, worked out on first sight."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = plain = self._plain(char)
        return plain

    @staticmethod
    def _plain(char: str) -> str:
        if char in _LOOKALIKES:
            return _LOOKALIKES[char]
        if unicodedata.category(char) in {"Cf", "Mn", "Me"}:
            return _UNSEEN
        plain = unicodedata.normalize("NFKC", char).casefold()
        # The skeleton must stay aligned with the text: what does not map to one character stands for itself.
        return _LOOKALIKES.get(plain, plain) if len(plain) == 1 else char


_SKELETON = _Skeleton()


class _Encodable(dict[int, str]):
    """Characters that tokenizers refuse or that steer a terminal, replaced by the replacement character."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        bad = unicodedata.category(char) in {"Cc", "Cs"} and char not in "\t\n\r"
        self[code] = "\ufffd" if bad else char
        return self[code]


_ENCODABLE = _Encodable()


def neutralise(text: str) -> str:
    """The text as the judge may see it.

    Args:
        text: a problem, a reference or one step.

    Returns:
        The text with step tags in round brackets, control tokens broken by a space, and control characters and lone
        surrogates replaced. It contains no string that `step_tag` gives, for any index and nonce.
    """
    text = text.translate(_ENCODABLE)
    skeleton = text.translate(_SKELETON)
    edits: dict[int, str] = {}
    for pattern in (*_BREAKS, _STEP_START):
        edits.update((match.start(), text[match.start()] + " ") for match in pattern.finditer(skeleton))
    # Last, for round brackets are the stronger change.
    edits.update((match.start(), "(") for match in _STEP_NUMBER.finditer(skeleton))
    for match in _STEP_TAG.finditer(skeleton):
        edits[match.start(1)], edits[match.start(2)] = "(", ")"
    if not edits:
        return text
    pieces, last = [], 0
    for position in sorted(edits):
        pieces += [text[last:position], edits[position]]
        last = position + 1
    return "".join([*pieces, text[last:]])
