"""How long does one update take with padded rows, and with rows that share their prompt? Both in one run, in turns.

    python bench/update_speed.py [--rounds 5] [--threads 2] [--only SmolLM2]

Models have random weights: SmolLM2-135M's shape, and the arithmetic task's small policy. An update is what CapoModule
does with one batch: micro-batches forward and backward, clipping, AdamW. Each round measures the machine's rate of
matrix products right before: the rates are the share of it that the update's own products reach (forward, and twice
that backward; attention, softmax, norms and the optimizer count as time alone). The gap is that of the two sides'
gradients, by their norm; the noise is that of padded rows in micro-batches of another size, which differ by rounding.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from capo_lit.core.microbatches import plan_microbatches, tally
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.packing import disable_packing, enable_packing

BUDGET = 2048  # tokens of a micro-batch, as configs/gsm8k_smollm2.yaml has it
SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3,
}  # fmt: skip
ARITHMETIC = {
    "vocab_size": 64, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """One batch of rollouts.

    Args:
        name: printed.
        model: sizes of the policy.
        prompts: that differ.
        group: rollouts of each.
        prompt: tokens of each prompt.
        response: most tokens of a response.
        ragged: responses have a half to all of these tokens; otherwise all have them.
    """

    name: str
    model: dict[str, int]
    prompts: int
    group: int
    prompt: int
    response: int
    ragged: bool = False


SHAPES = (
    Shape("arithmetic, 8 x 8, 12 + 33", ARITHMETIC, 8, 8, 12, 33),
    Shape("SmolLM2, 2 x 4, 96 + 64", SMOLLM2, 2, 4, 96, 64),
    Shape("SmolLM2, 1 x 8, 128 + 256", SMOLLM2, 1, 8, 128, 256),
    Shape("SmolLM2, 1 x 8, 128 + 128 to 256", SMOLLM2, 1, 8, 128, 256, ragged=True),
)


class Update:
    """Updates of one policy on one batch, always from the same weights' neighbourhood: the learning rate is tiny."""

    def __init__(self, shape: Shape) -> None:
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(LlamaConfig(**shape.model, tie_word_embeddings=True))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-9)
        draw = lambda count: tuple(torch.randint(3, shape.model["vocab_size"], (count,)).tolist())  # noqa: E731
        lengths = torch.randint(shape.response // 2, shape.response + 1, (shape.prompts * shape.group,)).tolist()
        self.responses = [draw(length if shape.ragged else shape.response) for length in lengths]
        prompts = [draw(shape.prompt) for _ in range(shape.prompts)]
        self.prompts = [prompt for prompt in prompts for _ in range(shape.group)]
        self.weights = [torch.randn(len(response)) for response in self.responses]
        self.gradient = torch.empty(0)

    def plan(self, packs: bool, budget: int = BUDGET) -> list[list[int]]:
        """Rows of each micro-batch."""
        lengths = [len(p) + len(r) for p, r in zip(self.prompts, self.responses, strict=True)]
        return plan_microbatches(lengths, budget, self.prompts if packs else None)

    def run(self, packs: bool, budget: int = BUDGET) -> None:
        """One update."""
        for rows in self.plan(packs, budget):
            logprobs, _ = response_logprobs(
                self.model, [self.prompts[row] for row in rows], [self.responses[row] for row in rows]
            )
            loss = sum((logprobs[i, : len(self.weights[row])] * self.weights[row]).sum() for i, row in enumerate(rows))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), float("inf"))
        self.optimizer.step()
        self.gradient = torch.cat([p.grad.flatten() for p in self.model.parameters()])
        self.optimizer.zero_grad()

    def products(self, packs: bool) -> float:
        """Floating-point operations of the update's matrix products with weights."""
        head = self.model.get_output_embeddings().weight.numel()
        layers = sum(p.numel() for name, p in self.model.named_parameters() if p.ndim == 2) - head
        sizes = [
            tally([self.prompts[row] for row in rows], [self.responses[row] for row in rows], packs)
            for rows in self.plan(packs)
        ]
        return 6.0 * (layers * sum(size.computed for size in sizes) + head * sum(map(len, self.responses)))


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def product_rate() -> float:
    """Operations per second of a product of the update's own size, the best of three."""
    one, two = torch.randn(1024, 576), torch.randn(1536, 576)
    return 2.0 * 1024 * 576 * 1536 / min(seconds(lambda: one @ two.T) for _ in range(3))


def measure(shape: Shape, rounds: int) -> None:
    """Both sides in turns, and one line."""
    update = Update(shape)
    times: dict[bool, list[float]] = {False: [], True: []}
    shares: dict[bool, list[float]] = {False: [], True: []}
    gradients = {}
    update.run(False, budget=1)
    alone = update.gradient
    for round_ in range(rounds + 1):
        for packs in (False, True) if round_ % 2 else (True, False):
            (enable_packing if packs else disable_packing)(update.model)
            rate = product_rate()
            taken = seconds(lambda packs=packs: update.run(packs))
            gradients[packs] = update.gradient
            if round_:  # the first warms up
                times[packs].append(taken)
                shares[packs].append(update.products(packs) / taken / rate)
    gap, noise = (float((other - gradients[False]).norm() / other.norm()) for other in (gradients[True], alone))
    padded, packed = (statistics.median(times[packs]) for packs in (False, True))
    ratio = statistics.median(a / b for a, b in zip(times[False], times[True], strict=True))
    padded_share, packed_share = (statistics.median(shares[packs]) for packs in (False, True))
    print(
        f"| {shape.name:32} | {padded:7.3f} | {packed:7.3f} | {ratio:5.2f} | {padded_share:4.0%} | {packed_share:4.0%} "
        f"| {gap:.0e} | {noise:.0e} |",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="shapes whose name has these letters")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {args.threads} threads, load {load:.1f} before, {args.rounds} rounds, medians\n")
    print("| prompts x group, tokens | padded, s | packed, s | ratio | padded rate | packed rate | gap | noise |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for shape in SHAPES:
        if args.only in shape.name:
            measure(shape, args.rounds)


if __name__ == "__main__":
    main()
