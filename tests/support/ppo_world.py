"""PPOModule on a tiny random model, watched."""

from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.training.settings import LossConfig, OptimConfig
from examples.ppo.module import PPOConfig, PPOModule
from tests.training.test_module import make_batch, train

PLAIN = CreditConfig(w_process=0.0)
RAW = PPOConfig(value_lr=1e-2, whiten=False)


class Watched(PPOModule):
    """Keeps the gradients of its first update, the old values of its last batch, and what it logged."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient, self.rows, self.logged = None, None, {}

    def apply_gradient(self, optimizer):
        if self.gradient is None:
            self.gradient = {name: p.grad.clone() for name, p in self.named_parameters()}
        return super().apply_gradient(optimizer)

    def assign_credit(self, batch):
        self.rows = super().assign_credit(batch)
        return self.rows

    def log_metrics(self, values, batch_size):
        self.logged.update(values)
        super().log_metrics(values, batch_size)


def fit(folder, *batches, **settings):
    settings.setdefault("loss", LossConfig(importance_cap=None))
    settings.setdefault("credit", PLAIN)
    settings.setdefault("ppo", RAW)
    module = Watched(folder, OptimConfig(lr=1e-2, grad_clip=0.0), **settings)
    for batch in batches:
        train(module, batch)
    return module


class Fresh:
    """The same rollouts in a new batch every epoch."""

    def __iter__(self):
        return iter([make_batch(judged=False)])

    def __len__(self):
        return 1


def run(module, epochs, save=None, ckpt_path=None):
    trainer = Trainer(
        max_epochs=epochs, max_steps=100, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, Fresh(), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    if save is not None:
        trainer.save_checkpoint(save)
