"""The vocabulary of the built-in arithmetic, and a random small Llama that speaks it."""

import json
import math
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from capo_lit.arithmetic.task import BOX, MAX_VALUE, SEPARATOR
from capo_lit.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
# The box opens together with its blank line: as separate tokens, the copy into the box is the last thing learnt.
WORDS = (*(str(value) for value in range(MAX_VALUE + 1)), "+", "-", "=", "?", SEPARATOR, SEPARATOR + BOX, "}")
MAX_LENGTH = 256
_HEAD = 64
_RECORD = "initial_model.json"
# A number's token may hold the sign before it, too: `+7` and `-5` as operands, `=19` and `=-4` as results.
_NUMBER = re.compile(r"=?[+-]?[0-9]+")
PIECES = r"\n\n\\boxed\{|\n\n|[0-9]+|."


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """The task's tokenizer: one token per number, sign and separator; 31 in all, none for unknown text.

    Returns:
        A fast tokenizer that adds no special tokens; decoding inserts no spaces. Text outside the task raises.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {word: index for index, word in enumerate((PAD, BOS, EOS, *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return wrap_tokenizer(backend)


def wrap_tokenizer(backend: "Tokenizer") -> "PreTrainedTokenizerFast":
    """A tokenizer of transformers over a backend whose vocabulary has PAD, BOS and EOS."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=MAX_LENGTH,
    )


def write_initial_model(
    path: str | Path,
    seed: int = 0,
    hidden: int = 128,
    layers: int = 2,
    init_std: float = 0.05,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> Path:
    """Write a random small Llama and its tokenizer, in the Hugging Face format.

    Heads are 64 wide, the MLP is three times as wide as the model, the embeddings are tied. Numbers start as sinusoids
    of their value, and those with a sign of their own are set apart by it. The folder appears whole or not at all, and
    one that holds this very model is left as it is.

    Args:
        path: the folder to write.
        seed: of the weights.
        hidden: width, a multiple of 64.
        layers: number of transformer blocks.
        init_std: standard deviation of the initial weights.
        tokenizer: with one token per number; by default the task's own, of `build_tokenizer`.

    Returns:
        `path`.

    Raises:
        ConfigError: if `hidden` is no multiple of 64.
        DataError: if `path` holds something else.
    """
    if hidden < _HEAD or hidden % _HEAD:
        raise ConfigError(f"hidden {hidden}", f"a multiple of {_HEAD}", "write_initial_model", "hidden")
    path = Path(path)
    settings = {"seed": seed, "hidden": hidden, "layers": layers, "init_std": init_std}
    if tokenizer is not None:
        settings["vocabulary"] = len(tokenizer)
    if not _holds(path, settings):
        _publish(path, settings, build_tokenizer() if tokenizer is None else tokenizer)
    return path


def _holds(path: Path, settings: dict[str, int | float]) -> bool:
    """Whether `path` holds the model of these settings already."""
    if not path.exists():
        return False
    record = path / _RECORD
    found = json.loads(record.read_text()) if record.is_file() else None
    if found != settings:
        raise DataError(
            f"settings {found}" if found else "a path without a record of settings",
            f"the initial model with {settings}, or nothing",
            str(path),
            "the path, or remove what is there",
        )
    return True


def _publish(path: Path, settings: dict[str, int | float], tokenizer: "PreTrainedTokenizerFast") -> None:
    """Make a folder and move it to its place; another process may have been first with the same model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as parent:
        folder = Path(parent) / "model"
        _save(folder, settings, tokenizer)
        try:
            folder.rename(path)
        except OSError:
            if not _holds(path, settings):
                raise


def _save(folder: Path, settings: dict[str, int | float], tokenizer: "PreTrainedTokenizerFast") -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = int(settings["hidden"])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=int(settings["layers"]),
        num_attention_heads=hidden // _HEAD,
        num_key_value_heads=hidden // _HEAD,
        head_dim=_HEAD,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=float(settings["init_std"]),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(settings["seed"]))
        model = LlamaForCausalLM(config)
        _set_numbers(model.model.embed_tokens.weight, tokenizer.get_vocab(), config.initializer_range)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / _RECORD).write_text(json.dumps(settings))


def _set_numbers(embeddings: "torch.Tensor", vocabulary: dict[str, int], std: float) -> None:
    """Let every number start as the sinusoids of its value, plus a random vector of the sign that it begins with."""
    import torch

    numbers = {word: index for word, index in vocabulary.items() if _NUMBER.fullmatch(word)}
    signs = {sign: std * torch.randn(embeddings.shape[1]) for sign in "=+-"}
    waves = _sinusoids([int(word.lstrip("=")) for word in numbers], embeddings.shape[1], std)
    with torch.no_grad():
        for wave, (word, index) in zip(waves, numbers.items(), strict=True):
            embeddings[index] = wave + signs[word[0]] if word[0] in signs else wave


def _sinusoids(values: list[int], hidden: int, std: float) -> "torch.Tensor":
    """Embeddings of numbers: std * sqrt(2) * (cos, sin)(2 pi value / period), periods from 2 to 2 * MAX_VALUE.

    From a random start, that 7 and 8 are neighbours is learnt late and by a sudden jump, after hundreds of steps that
    depend on the seed.

    Returns:
        (len(values), hidden) float32, with root mean square `std`.
    """
    import torch

    periods = torch.logspace(math.log10(2), math.log10(2 * MAX_VALUE), hidden // 2)
    angles = 2 * math.pi * torch.tensor(values)[:, None] / periods
    return std * math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)
