"""A callback that notes how the engines of its process were started."""

import json
import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from capo_lit.engines.vllm import VLLMEngine
from capo_lit.training.callbacks.critique import CritiqueCallback


class Placed(Callback):
    """Writes placed-RANK.json into the run's folder, before the first step: of each engine its executor and rank."""

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        judges = [one.judge for one in trainer.callbacks if isinstance(one, CritiqueCallback)]
        engines = [pl_module.sampler.engine, *(judge.engine for judge in judges if hasattr(judge, "engine"))]
        facts = {"engines": [_facts(engine) for engine in engines], "RANK": os.environ.get("RANK")}
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"placed-{trainer.global_rank}.json").write_text(json.dumps(facts))


def _facts(engine: VLLMEngine) -> list[Any]:
    if engine._llm is None:
        return ["not started"]
    executor: Any = engine._llm.llm_engine.engine_core.engine_core.model_executor
    worker = executor.driver_worker.worker
    return [type(executor).__name__, worker.rank, worker.local_rank]
