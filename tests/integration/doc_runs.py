"""Runs the commands of a page of the documents in a folder like a clone, with fewer training steps."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.support.doc_blocks import REPO, Command, blocks, commands

STEPS = {"trainer.max_steps": 2, "trainer.val_check_interval": 2}
FEW_PROBLEMS = {f"data.init_args.{split}.init_args.size": 16 for split in ("val", "test")}
LARGE_MODEL = {
    "trainer.max_steps": 1,
    "rollout.group_size": 2,
    "rollout.sampling.max_tokens": 24,
    "critique.judge.sampling.max_tokens": 24,
}
# Not installed, and its own library would be what is tested.
_LEFT_OUT = ("pip", "hydra/sweeper=optuna", "--help", "--serve", "make")


def clone_like(folder: Path) -> Path:
    """A folder with configs/, as a clone has it."""
    (folder / "configs").symlink_to(REPO / "configs")
    return folder


def runnable(page: Path) -> list[Command]:
    """The commands of a page that this machine can run to their end."""
    return [
        command
        for command in commands(page)
        if not command.needs_gpu and not any(word in _LEFT_OUT for word in command.words)
    ]


def shorter(words: tuple[str, ...], systems: int = 1) -> list[str]:
    """A command that trains or evaluates with less to do, a sweep with less to go over; others as they are."""
    settings: dict[str, int] = {}
    if words[0] == "capo-sweep" or words[1] == "fit":
        settings |= STEPS
    if "configs/quickstart.yaml" in words or any(word.startswith("experiment=") for word in words):
        settings |= FEW_PROBLEMS
    if "configs/gsm8k_smollm2.yaml" in words:
        settings |= LARGE_MODEL
    if words[0] == "capo-sweep":
        return [*(_fewer(word, systems) for word in words), *(f"{key}={value}" for key, value in settings.items())]
    return [*words, *(word for key, value in settings.items() for word in (f"--{key}", str(value)))]


def _fewer(word: str, systems: int) -> str:
    key, _, values = word.partition("=")
    counts = {"seed": 1, "experiment": systems}
    return f"{key}={','.join(values.split(',')[: counts[key]])}" if key in counts else word


def run_page(page: Path, folder: Path, names: Mapping[str, str] | None = None, systems: int = 1) -> int:
    """Write the files that a page shows into a folder, and run its commands there, in order.

    Args:
        page: of the documents.
        folder: from `clone_like`.
        names: words of the page -> what stands for them here.
        systems: how many of the experiments that a sweep of the page names.

    Returns:
        How many commands ran.
    """
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text)
    found = runnable(page)
    for command in found:
        run([(names or {}).get(word, word) for word in shorter(command.words, systems)], folder)
    return len(found)


def run(words: list[str], folder: Path) -> str:
    """Run a command of ours to its end; returns what it wrote to stdout."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": f"{folder}:{REPO}"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-3000:]}"
    return done.stdout
