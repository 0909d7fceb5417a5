"""lm-eval tasks: loaded by name or from files, described for a manifest, and run on a model."""

import hashlib
import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.engines.vllm_process import random_state_kept

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager

BENCHMARKS = Path(__file__).parent
"""Our own task files, each named capo_*."""
# What lm-eval's command sets: the choices of some tasks are shuffled, and examples drawn, by global generators.
_PYTHON_SEED, _SEED = 0, 1234

Tasks = dict[str, Any]
"""Loaded tasks, as lm-eval's evaluate takes them."""


def load_tasks(
    names: Sequence[str],
    data_dir: str | None = None,
    num_fewshot: int | None = None,
    gen_kwargs: Mapping[str, Any] | None = None,
    repeats: int | None = None,
) -> Tasks:
    """Load tasks with their data.

    Args:
        names: of lm-eval's tasks, groups or tags, of ours (capo_gsm8k), or paths of yaml files, which may name
            others in their folder.
        data_dir: folder of local files for our tasks; see capo_lit/evaluation/benchmarks/rows.py.
        num_fewshot: examples in the prompt, of tasks that do not forbid it by a 0 of their own.
        gen_kwargs: put over the generation_kwargs of the tasks that generate.
        repeats: answers per problem of the tasks that generate.

    Raises:
        ConfigError: if there is no such task.
        DataError: if a task's data cannot be had, or a file of our tasks cannot be used.
    """
    with _quiet(), _seeded():
        manager = _manager(names, {"data_dir": data_dir} if data_dir else {})
        try:
            tasks: Tasks = dict(manager.load(list(names)))
        except OSError as error:
            change = "let the hub be reached, or take tasks whose data is in its cache or in local files"
            raise DataError(f"{error}", "data of every task", f"tasks {list(names)}", change) from error
        for task in tasks["tasks"].values():
            if task.get_config("output_type") == "generate_until":
                if gen_kwargs is not None:
                    task.set_config(key="generation_kwargs", value=dict(gen_kwargs), update=True)
                if repeats is not None:
                    task.set_config(key="repeats", value=repeats)
            own = task.get_config("num_fewshot")
            if own is None or (num_fewshot is not None and own != 0):
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
    return tasks


def run_tasks(lm: "LM", tasks: Tasks, limit: int | None = None, apply_chat_template: bool = False) -> dict[str, float]:
    """Run tasks, always with the same examples in the prompts; global random states stay as they were.

    Args:
        lm: the model.
        tasks: of load_tasks.
        limit: at most this many problems of each task.
        apply_chat_template: whether prompts are rendered as chat messages.

    Returns:
        Values by `task/metric`, or `task/metric/filter` where a task filters answers in a way that has a name.
    """
    from lm_eval.evaluator import evaluate

    with _quiet(), _seeded():
        for task in tasks["tasks"].values():
            task.set_fewshot_seed(seed=_SEED)
        found = evaluate(
            lm, tasks, limit=limit, bootstrap_iters=0, log_samples=False, apply_chat_template=apply_chat_template
        )
    if found is None:
        raise ConfigError("an lm-eval model of rank > 0", "one that is rank 0 to lm-eval", "run_tasks")
    return _flat({**found["results"], **found.get("groups", {})})


def describe_tasks(tasks: Tasks) -> dict[str, dict[str, Any]]:
    """What a reader needs to repeat a result, by task: version, problems and their checksum, shots, sampling."""
    described = {}
    for name, task in tasks["tasks"].items():
        documents = hashlib.sha256()
        for document in task.eval_docs:
            documents.update(json.dumps(document, sort_keys=True, default=str).encode())
        config = task.config
        generates = task.get_config("output_type") == "generate_until"
        described[name] = {
            "version": str((config.metadata or {}).get("version")),
            "problems": len(task.eval_docs),
            "sha256": documents.hexdigest(),
            "num_fewshot": config.num_fewshot,
            "sampling": {"repeats": config.repeats, **config.generation_kwargs} if generates else {},
        }
    return described


def _manager(names: Sequence[str], metadata: Mapping[str, Any]) -> "TaskManager":
    from lm_eval.tasks import TaskManager

    folders = [str(BENCHMARKS), *sorted({str(Path(name).parent) for name in names if Path(name).is_file()})]
    # lm-eval's own 14,000 tasks take long to index: only where a name is not found without them.
    for defaults in (False, True):
        manager = TaskManager(include_path=folders, include_defaults=defaults, metadata=dict(metadata))
        missing = [name for name in names if name not in manager.all_tasks and not Path(name).is_file()]
        if not missing:
            return manager
    near = get_close_matches(missing[0], manager.all_tasks, n=3)
    where = f"lm-eval and {folders}"
    raise ConfigError(f"task {missing[0]!r}", f"the name or file of one (nearest: {near})", where, "lm_eval.tasks")


def _flat(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    values = {}
    for task, metrics in results.items():
        for key, value in metrics.items():
            metric, comma, filtered = key.partition(",")
            if comma and isinstance(value, int | float) and not metric.endswith("_stderr"):
                name = metric if filtered == "none" else f"{metric}/{filtered}"
                values[f"{task}/{name}"] = float(value)
    return values


@contextmanager
def _seeded() -> Iterator[None]:
    """The global generators as lm-eval's command sets them, and afterwards as they were."""
    import numpy as np

    with random_state_kept():
        random.seed(_PYTHON_SEED)
        np.random.seed(_SEED)
        torch.manual_seed(_SEED)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Without lm-eval's notices on every task it loads."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
