"""Writes what an evaluation found, with its manifest, and shows it where the evaluation is all there is to do."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.names import spec
from capo_lit.records.results import Manifest, write_result
from capo_lit.training.callbacks.lm_eval import LMEvalCallback


class ResultsCallback(Callback):
    """Writes one JSON file per evaluation to `results` under trainer.default_root_dir: metrics and manifest.

    Attributes:
        show: print them too; `capo validate` and `capo test` set it.
    """

    def __init__(self) -> None:
        self.show = False

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the metrics under val/."""
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Write the metrics under test/."""
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        prefix = f"{stage}/"
        values = {n: float(v) for n, v in sorted(trainer.callback_metrics.items()) if n.startswith(prefix)}
        manifest = _manifest(trainer, pl_module, stage)
        asked = [item for item in trainer.callbacks if isinstance(item, LMEvalCallback) and item.tasks]  # type: ignore[attr-defined]
        if asked and any(name.startswith("val/lm_eval/") for name in values):
            manifest = replace(manifest, lm_eval=asked[0].describe())
        path = Path(trainer.default_root_dir) / "results" / f"{stage}-step={manifest.policy_version}.json"
        dry = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # leaves nothing behind
        if not dry:
            write_result(path, values, manifest)
        if self.show:
            _show(values, manifest, None if dry else path)


def _manifest(trainer: Trainer, pl_module: Any, stage: str) -> Manifest:
    if pl_module.sampler is None:
        raise ConfigError("an evaluation without RolloutCallback", "one among the Trainer's callbacks", "results")
    engine, data = pl_module.sampler.engine, trainer.datamodule  # type: ignore[attr-defined]
    if data is None:
        raise ConfigError(
            "an evaluation of bare loaders", "a PromptDataModule, which says what the data are", "results"
        )
    return Manifest(
        model=pl_module.policy_path,
        policy_version=pl_module.version,
        data={"split": stage, **data.fingerprint(stage)},
        sampling=dict(pl_module.evaluated_by),
        engine=f"{type(engine).__module__}.{type(engine).__name__} ({engine.dtype})",
        seed=pl_module.seed,
    )


def _show(values: dict[str, float], manifest: Manifest, path: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{manifest.model}, policy version {manifest.policy_version}", title_justify="left")
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("meaning", overflow="fold")
    for name, value in values.items():
        described = spec(name)
        table.add_row(name, f"{value:.4g}", described.unit, described.meaning)
    console = Console()
    console.print(table)
    shown = asdict(manifest) | {"versions": " ".join(f"{k} {v}" for k, v in manifest.versions.items())}
    for name, value in (
        shown | {"command": " ".join(manifest.command), "written to": path or "nothing, in a dry run"}
    ).items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
