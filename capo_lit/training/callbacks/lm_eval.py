"""Runs lm-eval tasks on the live policy at the end of a validation, in the engine that its rollouts come from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from capo_lit.core.errors import ConfigError, check_settings
from capo_lit.engines.base import Engine
from capo_lit.engines.vllm_process import random_state_kept
from capo_lit.training.rollouts import Sampler

if TYPE_CHECKING:
    from capo_lit.evaluation.benchmarks.tasks import Tasks


class LMEvalCallback(Callback):
    """Logs the metrics of lm-eval tasks under val/lm_eval/, in `capo validate` and at validations of a fit.

    It keeps no state and gives all random states back, so that a resumed run goes on as if it had never run. Every
    data-parallel process generates a part of the answers.

    Args:
        tasks: names of lm-eval's tasks, groups and tags, of ours (capo_aime24, capo_amc23, capo_math500,
            capo_olympiadbench, capo_minerva, capo_gsm8k, capo_gpqa, capo_arc_c, capo_mmlu_pro), or paths of yaml
            files; none switches it off. Prompts are chat messages where the data's are (data.template.style).
        every_n_steps: in a fit, only at validations whose optimizer step is a multiple of this.
        limit: at most this many problems of each task; null takes all.
        data_dir: folder of local files for our tasks, `<data_dir>/gsm8k/test.jsonl`; null asks the hub.
        seed: of the run; sampled answers have the same seeds at every validation.
    """

    def __init__(
        self,
        tasks: Sequence[str] = (),
        every_n_steps: int = 1,
        limit: int | None = None,
        data_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        checks = (
            (every_n_steps >= 1, f"every_n_steps {every_n_steps}", "an integer >= 1", "every_n_steps"),
            (limit is None or limit >= 1, f"limit {limit}", "an integer >= 1, or null", "limit"),
        )
        check_settings(checks, "lm_eval")
        self.tasks, self.every_n_steps, self.limit = list(tasks), every_n_steps, limit
        self.data_dir, self.seed, self.chat = data_dir, seed, False
        self._loaded: Tasks | None = None

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """See whether the policy is asked in chats: benchmarks ask as the data does."""
        template = getattr(getattr(trainer, "datamodule", None), "template", None)
        self.chat = template is not None and template.style == "chat"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Run the tasks if they are due, and log what they measured."""
        if not self.tasks or trainer.sanity_checking:
            return
        if trainer.state.fn == TrainerFn.FITTING and pl_module.version % self.every_n_steps:
            return
        sampler: Sampler | None = pl_module.sampler
        if sampler is None:
            raise ConfigError(
                "no RolloutCallback", "one among the Trainer's callbacks, whose engine is used", "lm_eval"
            )
        sampler.push(pl_module)
        with random_state_kept():  # imports draw random numbers too
            values = self._run(sampler.engine, (trainer.global_rank, trainer.world_size))
        pl_module.log_metrics({f"val/lm_eval/{name}": value for name, value in values.items()}, batch_size=1)

    def describe(self) -> dict[str, Any]:
        """What was run, for a manifest: by task its version, problems and their checksum, shots and sampling."""
        from capo_lit.evaluation.benchmarks.tasks import describe_tasks

        settings = {"limit": self.limit, "apply_chat_template": self.chat, "seed": self.seed}
        return {"tasks": describe_tasks(self._load()) if self.tasks else {}, **settings}

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Stop the processes that judge the answers of our tasks."""
        if self._loaded is not None:
            from capo_lit.evaluation.benchmarks.answers import verifier

            verifier().close()

    def _run(self, engine: Engine, part: tuple[int, int]) -> dict[str, float]:
        from capo_lit.evaluation.benchmarks.model import EngineLM
        from capo_lit.evaluation.benchmarks.tasks import run_tasks

        model = EngineLM(engine, self.seed, part=part)
        return run_tasks(model, self._load(), self.limit, self.chat)

    def _load(self) -> "Tasks":
        if self._loaded is None:
            from capo_lit.evaluation.benchmarks.tasks import load_tasks

            self._loaded = load_tasks(self.tasks, self.data_dir)
        return self._loaded
