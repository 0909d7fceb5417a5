"""The text of every generated token, so that spans of text can be mapped to tokens without tokenising again."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What decoders write for bytes that are no character (yet): half a character, or plain garbage.
_BROKEN = "\N{REPLACEMENT CHARACTER}"


class _Table:
    """What is known about one tokenizer: its special ids, and the text of every id seen so far."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        added = tokenizer.added_tokens_decoder.items()
        self.special = frozenset(tokenizer.all_special_ids) | {index for index, token in added if token.special}
        self.texts: dict[int, str] = {}
        self.anchor: int | None = None
        self.anchor_text = ""
        for index in range(len(tokenizer)):
            raw = tokenizer.convert_ids_to_tokens(index)
            if index not in self.special and isinstance(raw, str) and raw.isascii() and raw.isalnum():
                self.anchor, self.anchor_text = index, _decode(tokenizer, [index])
                break


_TABLES: "WeakKeyDictionary[PreTrainedTokenizerBase, _Table]" = WeakKeyDictionary()


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The ids that skip_special_tokens leaves out of a text."""
    return _table(tokenizer).special


def decode_pieces(
    tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]
) -> tuple[tuple[str, ...], tuple[bool, ...], str]:
    """The decoded text of every id: "".join(pieces) == text, whatever the ids are.

    A character whose bytes are spread over several tokens stands whole on the last of them, and the others are "".
    Most texts are served from a table of single decodes; what those get wrong (a leading space that depends on the
    place, bytes of one character) is decoded in runs, and a text that this cannot explain prefix by prefix.

    Args:
        tokenizer: of the model that generated the ids.
        ids: t generated ids.

    Returns:
        pieces: t strings; "" for special tokens.
        special: t flags, True for special tokens.
        text: the decoded response, without special tokens.
    """
    table = _table(tokenizer)
    text = _decode(tokenizer, ids)
    special = tuple(index in table.special for index in ids)
    plain = [index for index, skip in zip(ids, special, strict=True) if not skip]
    found = next(pieces for pieces in _attempts(tokenizer, table, plain, text) if "".join(pieces) == text)
    rest = iter(found)
    return tuple("" if skip else next(rest) for skip in special), special, text


def _attempts(
    tokenizer: "PreTrainedTokenizerBase", table: _Table, ids: list[int], text: str
) -> Iterator[Sequence[str]]:
    """Pieces of non-special ids, from the cheapest guess to the one that always joins to the text."""
    single = [_in_context(tokenizer, table, [index], first=place == 0) for place, index in enumerate(ids)]
    yield single
    yield _repair_runs(tokenizer, table, ids, single)
    # Quadratic in the length; only decoders whose text is not a chain of their tokens' texts come this far.
    yield _cut(lambda count: _decode(tokenizer, ids[:count]), len(ids), text)


def _repair_runs(
    tokenizer: "PreTrainedTokenizerBase", table: _Table, ids: list[int], single: list[str]
) -> Sequence[str]:
    """Decode every maximal run of broken pieces as one: its neighbours are whole characters."""
    pieces = list(single)
    start = 0
    while start < len(ids):
        stop = start
        while stop < len(ids) and _BROKEN in single[stop]:
            stop += 1
        if stop > start:
            run, first = ids[start:stop], start == 0

            def prefix(count: int, run: list[int] = run, first: bool = first) -> str:
                return _in_context(tokenizer, table, run[:count], first)

            pieces[start:stop] = _cut(prefix, len(run), prefix(len(run)))
        start = stop + 1
    return pieces


def _cut(prefix: Callable[[int], str], count: int, text: str) -> list[str]:
    """Split `text` after what the decoded prefixes of 1, 2, ... `count` ids have of it already."""
    ends = [0]
    for upto in range(1, count + 1):
        # Half a character decodes to a stand-in that is not in the text: what is common ends before it.
        ends.append(len(text) if upto == count else max(ends[-1], _common(prefix(upto), text)))
    return [text[start:stop] for start, stop in pairwise(ends)]


def _common(one: str, other: str) -> int:
    """Length of the longest common prefix."""
    differs = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


def _in_context(tokenizer: "PreTrainedTokenizerBase", table: _Table, ids: list[int], first: bool) -> str:
    """The text of ids inside a response; `first` for its beginning, where some decoders drop a space."""
    if first or table.anchor is None:
        return _decode(tokenizer, ids)
    if len(ids) == 1 and ids[0] in table.texts:
        return table.texts[ids[0]]
    text = _decode(tokenizer, [table.anchor, *ids])
    # Where the anchor itself was changed by what follows, the caller's comparison with the full text decides.
    text = text[len(table.anchor_text) :] if text.startswith(table.anchor_text) else _decode(tokenizer, ids)
    if len(ids) == 1:
        table.texts[ids[0]] = text
    return text


def _decode(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text)


def _table(tokenizer: "PreTrainedTokenizerBase") -> _Table:
    if tokenizer not in _TABLES:
        _TABLES[tokenizer] = _Table(tokenizer)
    return _TABLES[tokenizer]
