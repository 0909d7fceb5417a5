"""decode_pieces: the pieces always join to the text, and a character stands on one of its tokens."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from capo_lit.engines.pieces import decode_pieces, special_ids

CORPUS = [
    "Step one: add 12 and 30. The answer is 42, so we are done.",
    "naive café, and so on and so on",
    "so we add",
] * 3


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    """256 byte tokens, some merges learnt from English: an emoji or CJK character takes three or four tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<pad>", "<eos>"]
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


@functools.cache
def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Llama 2's kind: "▁" for spaces, the first of them dropped, bytes as <0xE4> tokens."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for word in ("▁", "▁the", "▁cat", "s", "a", "c", "t", "▁is", "12", "\n", "."):
        vocab[word] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@functools.cache
def word_level() -> PreTrainedTokenizerFast:
    """No decoder at all: words are joined with spaces."""
    vocab = {"<pad>": 0, "<eos>": 1, "12": 2, "+": 3, "7": 4, "=": 5}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


KINDS = {"byte_level": byte_level, "sentencepiece_like": sentencepiece_like, "word_level": word_level}


def check(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> tuple[tuple[str, ...], str]:
    pieces, special, text = decode_pieces(tokenizer, ids)
    assert text == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert "".join(pieces) == text
    assert len(pieces) == len(special) == len(ids)
    assert list(special) == [index in special_ids(tokenizer) for index in ids]
    assert all(not piece for piece, flag in zip(pieces, special, strict=True) if flag)
    return pieces, text


@pytest.mark.parametrize("kind", KINDS)
def test_random_ids_join_to_the_text(kind: str) -> None:
    tokenizer = KINDS[kind]()

    @given(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    def run(ids: list[int]) -> None:
        check(tokenizer, ids)

    run()


@given(st.text(max_size=60))
def test_random_text_comes_back_whole(text: str) -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces, decoded = check(tokenizer, ids)
    # Byte-level tokenizers lose nothing; the text may spell "<eos>", which is then a special token and not text.
    if not special_ids(tokenizer).intersection(ids):
        assert decoded == text
        # Every character stands on one token: no piece has half of one.
        assert all("\N{REPLACEMENT CHARACTER}" not in piece or "\N{REPLACEMENT CHARACTER}" in text for piece in pieces)


@pytest.mark.parametrize("character", ["😀", "日", "é́", "👩‍🔬", "한국"])
def test_a_character_of_many_tokens_is_not_torn(character: str) -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode(f"so {character} we", add_special_tokens=False)
    pieces, text = check(tokenizer, ids)
    assert text == f"so {character} we"
    for letter in set(character):
        assert sum(piece.count(letter) for piece in pieces) == character.count(letter)


def test_the_character_stands_on_its_last_token() -> None:
    # "日" is the bytes E6 97 A5, and no merge of the English corpus joins them: three tokens, whole on the third.
    tokenizer = byte_level()
    ids = tokenizer.encode("日", add_special_tokens=False)
    assert decode_pieces(tokenizer, ids) == (("", "", "日"), (False, False, False), "日")
    # Cut off after two bytes, it is no character: one stand-in, on one token.
    pieces, text = check(tokenizer, ids[:2])
    assert text == "\N{REPLACEMENT CHARACTER}"
    assert sorted(pieces) == ["", "\N{REPLACEMENT CHARACTER}"]


def test_special_tokens_are_empty_and_flagged() -> None:
    tokenizer = byte_level()
    ids = [*tokenizer.encode("so", add_special_tokens=False), tokenizer.eos_token_id]
    pieces, special, text = decode_pieces(tokenizer, ids)
    assert text == "so"
    assert (pieces[-1], special[-1]) == ("", True)
    assert not any(special[:-1])
    assert decode_pieces(tokenizer, []) == ((), (), "")


def test_leading_spaces_belong_to_the_word_they_stand_before() -> None:
    # The decoder drops the space of the first word only: "the cat" has ids ▁the ▁cat.
    tokenizer = sentencepiece_like()
    ids = tokenizer.convert_tokens_to_ids(["▁the", "▁cat", "s", "</s>"])
    assert decode_pieces(tokenizer, ids) == (("the", " cat", "s", ""), (False, False, False, True), "the cats")
    assert decode_pieces(tokenizer, [ids[3], *ids[:2]])[0] == ("", "the", " cat")


def test_words_without_a_decoder_are_joined_with_spaces() -> None:
    tokenizer = word_level()
    assert decode_pieces(tokenizer, [2, 3, 4, 1])[0] == ("12", " +", " 7", "")


def test_long_texts_take_no_quadratic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 tokens with emoji: a handful of decodes per emoji beyond one per distinct token, not one per prefix."""
    tokenizer = byte_level()
    ids = tokenizer.encode("so we add 😀 and 日. " * 100, add_special_tokens=False)
    decoded = 0
    original = type(tokenizer).decode

    def counting(self: PreTrainedTokenizerFast, tokens: list[int], **options: bool) -> str:
        nonlocal decoded
        decoded += len(tokens)
        return str(original(self, tokens, **options))

    monkeypatch.setattr(type(tokenizer), "decode", counting)
    check(tokenizer, ids)
    # Full decodes (here and in check), two ids per distinct token, and for each of the 200 characters of 3 or 4 tokens
    # its prefixes with an anchor: at most 5 + 2 + 3 + 4 + 5 + 5 ids. Prefixes of the whole would be len(ids)^2 / 2.
    assert decoded < 2 * len(ids) + 2 * 320 + 200 * 24 < len(ids) ** 2 / 20
