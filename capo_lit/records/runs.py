"""Run folders as a report reads them: config, seed, curves, the system they are a run of, and what ails them."""

import hashlib
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from capo_lit.core.errors import DataError
from capo_lit.records.curves import Curve, read_curves

CONFIG, RESULT, LOG = "config.yaml", "result.json", "log.txt"
REFUSED = "refused.txt"  # why the job that was asked for last was not run in a folder of another one

# Settings that name places, not what is trained: runs that differ in them alone are runs of one system.
_PLACES = (
    "trainer.default_root_dir", "trainer.logger", "record.", "export.", "checkpoint.", "results.", "ckpt_path",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy",  # a step does not depend on how many processes share it
)  # fmt: skip
_SEEDS = ("seed", "seed_everything")
_LABEL_FILE = "label.txt"


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        path: of the folder.
        system: what it is a run of; runs of one system differ in their seed alone.
        seed: of the run, or None if its config names none.
        config: settings by dotted name.
        digest: SHA-256 of the config file, its first 12 digits; empty without one.
        curves: metrics by name, each as {step: value}; empty if it logged nothing.
        trouble: why the run is in no mean, empty for a whole run.
    """

    path: Path
    system: str
    seed: int | None
    config: Mapping[str, Any]
    digest: str
    curves: Mapping[str, Curve]
    trouble: str = ""

    @property
    def last_step(self) -> int:
        """Optimizer steps taken."""
        versions = self.curves.get("policy/version", {}).values()
        return max((*map(int, versions), *(step for curve in self.curves.values() for step in curve)), default=0)


def processes(config: Mapping[str, Any], curves: Mapping[str, Curve]) -> int:
    """What the log of a step has to be multiplied by to be the sum over all processes.

    Logs with `rollout/count` hold sums. Older ones hold means over the processes, whose number the config tells.

    Args:
        config: settings by dotted name.
        curves: metrics by name.
    """
    if "rollout/count" in curves:
        return 1
    devices, nodes = config.get("trainer.devices", 1), config.get("trainer.num_nodes", 1)
    return (devices if isinstance(devices, int) and devices > 0 else 1) * (nodes if isinstance(nodes, int) else 1)


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders at or under some paths, in order of name, each once.

    Raises:
        DataError: if there is none at or under one of the paths.
    """
    found: dict[Path, None] = {}
    for path in paths:
        below = sorted(_below(path), key=lambda folder: [_natural(part) for part in folder.parts])
        if not below:
            raise DataError(
                "no run", "folders with csv/version_*/metrics.csv, config.yaml or .hydra/", str(path), "RUNS"
            )
        found |= dict.fromkeys(below)
    return list(found)


def _below(path: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(path):
        if "csv" in names or ".hydra" in names or "config.yaml" in files:
            names.clear()  # there are no runs inside a run
            yield Path(folder)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def read_runs(folders: Iterable[Path], labels: Sequence[tuple[str, str]] = ()) -> list[Run]:
    """Read run folders and say which system each is a run of.

    A system is named by, in this order: the first of `labels` that fits; the file label.txt in the folder; the words
    that Hydra composed the job from, its seed left out; the folder's name, and then runs of equal configs but for
    seed and places are one system.

    Args:
        folders: from `find_runs`.
        labels: (name, pattern of the folder's path), as fnmatch has it.

    Raises:
        DataError: if a config or a CSV file cannot be read.
    """
    runs = [read_run(folder) for folder in folders]
    words = {run.path: _words(run.path) for run in runs}
    counts = Counter(word for given in words.values() for word in set(given))
    composed = sum(bool(given) for given in words.values())
    common = {word for word, count in counts.items() if count == composed and not word.startswith("experiment=")}
    named: list[Run] = []
    nameless: list[Run] = []
    for run in runs:
        name = _given_name(run.path, labels) or _composed_name(words[run.path], common)
        (named if name else nameless).append(replace(run, system=name))
    order = {run.path: index for index, run in enumerate(runs)}
    return sorted(named + _by_config(nameless), key=lambda run: order[run.path])


def read_run(folder: Path) -> Run:
    """One run folder; the system it is a run of is left empty.

    Raises:
        DataError: if its config or a CSV file cannot be read.
    """
    file = _config_file(folder)
    config = dict(_flat((file and _yaml(file)) or {}))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file else ""
    seed = next((config[name] for name in ("seed_everything", "seed") if isinstance(config.get(name), int)), None)
    curves = read_curves(folder) if any((folder / "csv").glob("version_*/metrics.csv")) else {}
    run = Run(folder, "", seed, config, digest, curves)
    return replace(run, trouble=_trouble(run))


def _config_file(folder: Path) -> Path | None:
    """The config as it was parsed, defaults included, if training began; else the one that was asked for."""
    parsed = sorted(folder.glob("csv/version_*/config.yaml"), key=lambda file: _natural(file.parent.name))
    candidates = [*reversed(parsed), folder / "config.yaml"]
    return next((file for file in candidates if file.is_file()), None)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _trouble(run: Run) -> str:
    ended = read_result(run.path)  # of a job of capo-sweep
    if ended and ended["error"]:
        return f"failed at step {run.last_step}: {ended['error']}"
    if not run.curves:
        return "logged nothing: it failed before its first step, or was not started"
    steps = run.config.get("trainer.max_steps")
    exported = (run.path / "policy").is_dir()  # at the end of a run, which a callback may bring about earlier
    if isinstance(steps, int) and run.last_step < steps and not exported:
        return f"unfinished: step {run.last_step} of {steps}"
    return ""


def _given_name(folder: Path, labels: Sequence[tuple[str, str]]) -> str:
    for name, pattern in labels:
        if fnmatch(str(folder), pattern) or fnmatch(folder.name, pattern):
            return name
    file = folder / _LABEL_FILE
    return file.read_text().strip() if file.is_file() else ""


def _words(folder: Path) -> list[str]:
    """The words that Hydra composed a job from, but for its seed; none if Hydra did not."""
    words = _yaml(folder / ".hydra" / "overrides.yaml")
    if words is None:
        return []
    kept = [word for word in words if word.lstrip("+").split("=")[0] not in _SEEDS]
    if any(word.startswith("experiment=") for word in kept):
        return kept
    hydra = (_yaml(folder / ".hydra" / "hydra.yaml") or {}).get("hydra", {})
    chosen = hydra.get("runtime", {}).get("choices", {}).get("experiment")  # by default, not by a word
    return [f"experiment={chosen}", *kept] if chosen else kept


def _yaml(file: Path) -> Any:
    """The content of a YAML file; None if there is no such file."""
    try:
        return yaml.safe_load(file.read_text()) if file.is_file() else None
    except yaml.YAMLError as error:
        raise DataError(f"YAML that cannot be read: {error}", "the settings of a run", str(file), "the file") from error


def _composed_name(words: Sequence[str], common: set[str]) -> str:
    """The experiment, and the other words that not all jobs share, by the last part of their key."""
    parts: list[str] = []
    for word in words:
        key, _, value = word.lstrip("+~").partition("=")
        if key == "experiment":
            parts.insert(0, value)
        elif word not in common:
            parts.append(f"{key.split('.')[-1]}={value}")
    return " ".join(parts)


def same_but(config: Mapping[str, Any], left_out: Iterable[str] = ()) -> frozenset[tuple[str, str]]:
    """The settings of a run, without seed, places and the names given."""
    names = {*_SEEDS, *left_out}
    return frozenset(
        (key, repr(value)) for key, value in config.items() if key not in names and not key.startswith(_PLACES)
    )


def _by_config(runs: Sequence[Run]) -> list[Run]:
    """Name runs of equal configs by the folder of the first, with as many parents as tell the systems apart."""
    groups: dict[frozenset[tuple[str, str]], list[Run]] = defaultdict(list)
    for run in runs:
        groups[same_but(run.config)].append(run)
    tails = [_tails(members[0].path) for members in groups.values()]
    named = []
    for own, members in zip(tails, groups.values(), strict=True):
        others = {tail for other in tails if other is not own for tail in other[:-1]}
        name = next((tail for tail in own if tail not in others), own[-1])
        named += [replace(run, system=name) for run in members]
    return named


def _tails(folder: Path) -> list[str]:
    """Ever longer names of a folder: without a seed at its end (capo-seed3 and capo_seed=3 are capo), then whole."""
    parts = folder.resolve().parts[1:]
    stem = re.sub(r"[-_.]?seed[-_=]?\d+$", "", parts[-1]) or parts[-1]
    return ["/".join((*parts[-length:-1], stem)) for length in range(1, len(parts) + 1)] + [str(folder)]


def read_result(folder: Path) -> dict[str, Any] | None:
    """How the run in a folder ended, as `train` returned it, or None if it has not ended."""
    file = folder / RESULT
    return json.loads(file.read_text()) if file.exists() else None
