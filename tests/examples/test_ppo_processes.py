"""PPO on two real processes over gloo, each with half of the groups, takes the steps of one process with all."""

import os
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.training.settings import OptimConfig, UpdateConfig
from examples.ppo.module import PPOConfig, PPOModule
from tests.support.builders import tiny_llama
from tests.support.invariance import TOLERANCE, distance, make_batch, make_groups
from tests.support.loaders import Loader
from tests.support.ranks import run_two

pytestmark = pytest.mark.slow

SETTINGS = {
    "credit": CreditConfig(),
    "update": UpdateConfig(epochs=2, tokens_per_microbatch=60),
    "ppo": PPOConfig(gamma=0.99, lam=0.9, value_lr=1e-3),
}


class Watched(PPOModule):
    """Starts from values that differ, and keeps the gradients of both models at every update."""

    def __init__(self, policy: str) -> None:
        super().__init__(policy, OptimConfig(lr=1e-3, grad_clip=0.1), **SETTINGS)
        self.gradients: list[torch.Tensor] = []
        with torch.no_grad():
            self.value.head.weight.normal_(generator=torch.Generator().manual_seed(1))

    def apply_gradient(self, optimizer) -> float:
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in self.parameters()]))
        return super().apply_gradient(optimizer)


def fit(policy: str, groups, **trainer) -> list[torch.Tensor]:
    module = Watched(policy)
    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, **{"devices": 1, **trainer},
    ).fit(module, Loader([make_batch(groups)]))  # fmt: skip
    return module.gradients


def worker(rank: int, port: int, policy: str, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    groups = make_groups(4)
    half = groups[:1] if rank == 0 else groups[1:]  # one micro-batch here, several there
    torch.save(fit(policy, half, devices=2, strategy="ddp"), Path(folder) / f"{rank}.pt")


def test_two_processes_are_one(tmp_path):
    tiny_llama(tmp_path / "policy", initializer_range=0.1)
    policy = str(tmp_path / "policy")
    run_two(worker, policy, str(tmp_path))
    alone = fit(policy, make_groups(4))
    for rank in (0, 1):
        gradients = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert len(gradients) == len(alone) == 2
        assert max(distance(mine, whole) for mine, whole in zip(gradients, alone, strict=True)) < TOLERANCE
