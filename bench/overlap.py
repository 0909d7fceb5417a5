"""What does sampling one step ahead hide, and does the policy learn as well? Both sides in one run, on one server.

    .venv/bin/python bench/overlap.py time [--seconds 2] [--steps 8]
    .venv/bin/python bench/overlap.py learn [--seeds 5] [--steps 80]   # after `capo prepare quickstart`

`time`: CAPO on the built-in arithmetic with a real vLLM server for the rollouts and, for a judge, a loopback server
that takes a fixed time per critique. Steps with rollout.ahead 0 and 1; hidden is what with it is not waited for any
more, as a share of what rollouts and judge take without it. Trainer and server share the machine's cores, so that both
are slower while they overlap, and a step is shorter by less: that is printed too. The policy is wider than the
quickstart's, so that its update takes about as long as they do: nothing can hide behind an update that is shorter.

`learn`: the quickstart with its rule for a judge, with ahead 0 and 1, from the same start; avg@k on the validation set.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from lightning.pytorch import Callback, Trainer

from capo_lit.arithmetic.model import build_tokenizer
from capo_lit.cli.trainer import build
from capo_lit.engines.servers import VLLMServers
from capo_lit.training.callbacks.rollout import RolloutCallback

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
TIMES = ("time/step_s", "time/rollout_s", "time/critique_s", "time/update_s", "time/ahead_wait_s")
WARM_UP = 2


class Kept(Callback):
    """Keeps the metrics of every step, as they were logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Those of the step before."""
        self._keep(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Those of the last step."""
        self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if "time/step_s" in values:
            self.rows.append(values)


@contextmanager
def judge_server(seconds: float) -> Iterator[str]:
    """A chat-completions server that says "nothing wrong" after `seconds`, to as many at once as ask."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            choice = {"index": 0, "message": {"role": "assistant", "content": "\\boxed{none}"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "slow"}
            data = json.dumps({**body, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: a line per request would be part of what is measured."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024  # all requests may come at once
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def write_wide_model(folder: Path) -> Path:
    """An untrained Llama over the arithmetic's characters, with the quickstart's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1152, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fit(engine: VLLMServers, settings: dict[str, object], ahead: int) -> Kept:
    """One run on these servers."""
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    cli = build(["--config", str(CONFIG), *flags], run=False)
    given = next(one for one in cli.trainer.callbacks if isinstance(one, RolloutCallback))
    rollout = RolloutCallback(
        engine, given.group_size, given.sampling, given.eval_samples, given.sampler.seed, ahead=1 if ahead else 0
    )
    kept = Kept()
    cli.trainer.callbacks[cli.trainer.callbacks.index(given)] = rollout
    cli.trainer.callbacks.insert(0, kept)
    cli.trainer.fit(cli.model, cli.datamodule)
    return kept


def served(model: Path, servers: int) -> VLLMServers:
    """Servers over a model of the arithmetic."""
    return VLLMServers(str(model), servers, dtype="float32", max_model_len=200, max_num_seqs=64, kv_cache_gib=0.2)


def measure_time(args: argparse.Namespace, folder: Path) -> None:
    """Print the times of both, and what is hidden."""
    model = write_wide_model(folder / "model")
    engine = served(model, args.servers)
    medians: list[dict[str, float]] = []
    with judge_server(args.seconds) as url:
        judge = {"class_path": "capo_lit.HTTPEngine", "init_args": {"model": "slow", "base_urls": [url]}}
        judge["init_args"] |= {"max_concurrency": 512}  # type: ignore[operator]
        settings = {
            "policy": model, "trainer.max_steps": args.steps + WARM_UP, "trainer.val_check_interval": 10**6,
            "trainer.logger": "false", "validate_first": "false", "rollout.sampling.max_tokens": 64,
            "checkpoint.every_n_steps": 10**6, "critique.judge": "capo_lit.GenPRM",
            "critique.judge.init_args.engine": json.dumps(judge), "critique.judge.init_args.k": 1,
            "critique.judge.init_args.vote": "union",
        }  # fmt: skip
        for ahead in (0, 1):
            rows = fit(engine, settings | {"trainer.default_root_dir": folder / f"ahead{ahead}"}, ahead).rows[WARM_UP:]
            medians.append({name: statistics.median(row.get(name, 0.0) for row in rows) for name in TIMES})
            named = "  ".join(f"{name.split('/')[1]} {value:.2f}" for name, value in medians[-1].items())
            print(f"ahead {ahead}: median of {len(rows)} steps: {named}", flush=True)
    engine.close()
    exposed = medians[0]["time/rollout_s"] + medians[0]["time/critique_s"]
    left, shorter = medians[1]["time/ahead_wait_s"], medians[0]["time/step_s"] - medians[1]["time/step_s"]
    print(f"without it rollouts and judge take {exposed:.2f} s of a step of {medians[0]['time/step_s']:.2f} s")
    print(
        f"with it {left:.2f} s are left to wait for: {1 - left / exposed:.0%} hidden; steps are {shorter:.2f} s shorter"
    )


def measure_learning(args: argparse.Namespace, folder: Path) -> None:
    """Print avg@k after training, of both, by seed."""
    model = Path(args.policy)
    engine = served(model, args.servers)
    found: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(args.seeds):
        for ahead in (0, 1):
            settings = {
                "policy": model, "trainer.default_root_dir": folder / f"seed{seed}ahead{ahead}",
                "seed_everything": seed, "trainer.max_steps": args.steps, "trainer.val_check_interval": args.steps,
                "trainer.logger": "false", "validate_first": "false", "checkpoint.every_n_steps": 10**6,
            }  # fmt: skip
            started = time.perf_counter()
            found[ahead].append(fit(engine, settings, ahead).rows[-1]["val/avg_at_k"])
            took = time.perf_counter() - started
            print(f"seed {seed} ahead {ahead}: val/avg_at_k {found[ahead][-1]:.3f} ({took:.0f} s)", flush=True)
    engine.close()
    for ahead, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"ahead {ahead}: mean {statistics.mean(values):.3f}, deviation {spread:.3f}, {len(values)} seeds")
    gaps = [one - other for one, other in zip(found[1], found[0], strict=True)]
    print(f"ahead 1 minus ahead 0, by seed: {', '.join(f'{gap:+.3f}' for gap in gaps)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "learn"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of one critique")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--policy", default="runs/quickstart/sft/policy", help="a policy to start from, of `learn`")
    args = parser.parse_args()
    args.steps = args.steps or {"time": 8, "learn": 80}[args.what]
    with tempfile.TemporaryDirectory() as name:
        {"time": measure_time, "learn": measure_learning}[args.what](args, Path(name))


if __name__ == "__main__":
    main()
