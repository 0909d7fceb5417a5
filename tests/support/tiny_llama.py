"""A random Llama of 2 layers and 48 words, and what it thinks of a response, computed without any engine."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_lit.batch.facts import Completion
from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Engine, Request, as_completed

WORDS, EOS, LIMIT = 48, 1, 256
MAX_LEN = 160  # of the engine over it
CHAT = "{% for m in messages %}w0 {{ m.content }} w1 {% endfor %}w2"


def build(path: Path, tie: bool = True, seed: int = 0) -> LlamaForCausalLM:
    """Write model and tokenizer to `path`; weights so large that the distributions are far from uniform."""
    vocab = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {f"w{i}": i + 3 for i in range(WORDS - 3)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", unk_token="<unk>", chat_template=CHAT
    ).save_pretrained(path)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LIMIT,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=0,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    model.save_pretrained(path)
    return model


def perturb(model: LlamaForCausalLM, seed: int) -> None:
    """Change every weight, by about a third of its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


def requests(count: int = 16, tokens: int = 24, **sampling: float) -> list[Request]:
    """`count` requests over 4 prompts of different lengths, each with its own seed."""
    prompts = [tuple(3 + (7 * which + 5 * place) % 45 for place in range(3 + 4 * which)) for which in range(4)]
    drawn = Sampling(max_tokens=tokens, **sampling)  # type: ignore[arg-type]
    return [Request(f"r{i}", prompts[i % 4], drawn, seed=1000 + i) for i in range(count)]


@torch.no_grad()
def logits_of(model: torch.nn.Module, request: Request, completion: Completion) -> torch.Tensor:
    """The model's logits where it generated the completion's ids, (t, V) float32, from one plain forward."""
    ids = torch.tensor([[*request.prompt, *completion.ids]])
    return model(input_ids=ids).logits[0, len(request.prompt) - 1 : -1].float()


def gap(
    model: torch.nn.Module, asked: list[Request], completions: list[Completion], temperature: float = 1.0
) -> tuple[float, float]:
    """Mean and greatest difference between a completion's logprobs and the model's own at that temperature."""
    by_id = {request.request_id: request for request in asked}
    differences = []
    for completion in completions:
        logits = logits_of(model, by_id[completion.request_id], completion) / temperature
        own = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
        differences.append((own - torch.tensor(completion.logprobs)).abs())
    flat = torch.cat(differences)
    return float(flat.mean()), float(flat.max())


def in_order(completions: list[Completion]) -> list[Completion]:
    return sorted(completions, key=lambda completion: int(completion.request_id[1:]))


def run(engine: Engine, asked: list[Request]) -> list[Completion]:
    """The completions in the order they were asked for."""
    return in_order(list(as_completed(engine, asked)))
