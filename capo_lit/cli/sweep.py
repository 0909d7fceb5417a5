"""`capo-sweep -m experiment=capo,grpo_rule seed=1,2,3`: each run in a process of its own, and one table of them all."""

import json
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from capo_lit.cli.compose import CONFIGS, quoted, settings
from capo_lit.cli.process import fit_process, last_error
from capo_lit.core.errors import CapoError, ConfigError, one_line
from capo_lit.core.files import write_atomic
from capo_lit.records.runs import CONFIG, LOG, REFUSED, RESULT, read_result

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What `capo` says at its end; else the line of a traceback that names an exception.


class _AnotherJobError(ConfigError):
    """The folder holds the run of another config."""


class Summary(Callback):
    """Remembers where Hydra puts the jobs, so that the table can be written when all have ended."""

    folder: Path | None = None

    def on_run_start(self, config: "DictConfig", **kwargs: Any) -> None:
        """One job, without -m."""
        Summary.folder = Path(config.hydra.run.dir)

    def on_multirun_start(self, config: "DictConfig", **kwargs: Any) -> None:
        """Several jobs."""
        Summary.folder = Path(config.hydra.sweep.dir)


def main() -> int:
    """Run the `capo-sweep` command.

    Returns:
        The exit status: 0, 1 if a job failed (after all have run), or 2 if the words cannot be composed.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    sys.argv[1:] = [quoted(word) for word in sys.argv[1:]]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them over several lines
    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="config")(job)()
    except (HydraException, OmegaConfBaseException) as error:
        if os.environ.get("CAPO_DEBUG"):
            raise
        sys.stderr.write(f"capo-sweep: {one_line(str(error).split('Config search path:')[0])}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("capo-sweep: interrupted; the same command with hydra.sweep.dir=FOLDER goes on\n")
    return _report(Summary.folder) if Summary.folder is not None else 0


def _report(folder: Path) -> int:
    from capo_lit.records.report.sweep_table import job_rows, write_table

    rows = job_rows(folder)
    sys.stdout.write(write_table(rows, folder))
    return int(any(row["status"] != "ok" for row in rows))


def job(config: "DictConfig") -> float:
    """Train one job in its folder, and keep its result there; Hydra calls this.

    Returns:
        The last value of the metric `objective`, for a sweep's optimizer. If the job failed or has none, the worst
        value in the optimizer's direction, since Optuna's sweeper ends at a nan; nan without an optimizer.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf.errors import OmegaConfBaseException

    hydra = HydraConfig.get()
    folder, words = Path(hydra.runtime.output_dir), " ".join(hydra.overrides.task)
    try:
        result = train(settings(config), folder)
    except _AnotherJobError as error:  # its result stays
        result = {"error": one_line(error), "seconds": 0.0}
        (folder / REFUSED).write_text(result["error"] + "\n")
    except (CapoError, OmegaConfBaseException) as error:  # Hydra would not start the jobs after this one
        result = _write_result(folder, one_line(error), 0.0)
    told = f"failed: {result['error']}" if result["error"] else "ok"
    sys.stderr.write(f"capo-sweep: {folder.name}: {words}: {told}, {result['seconds']:.0f} s\n")
    return _worst(hydra) if result["error"] else _objective(folder, config.objective, _worst(hydra))


def _worst(hydra: "DictConfig") -> float:
    from omegaconf import OmegaConf

    direction = OmegaConf.select(hydra, "sweeper.direction")
    return {"maximize": -math.inf, "minimize": math.inf}.get(getattr(direction, "name", str(direction)), math.nan)


def train(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run `capo fit` on a config in a process of its own; what was finished before is not run again.

    Args:
        config: settings of `capo fit`; written to FOLDER/config.yaml, which `capo fit --config` runs again as it is,
            into FOLDER/rerun.
        folder: the run's trainer.default_root_dir; a run that was killed there goes on.

    Returns:
        error, the last line of its log that tells one, or "" if it did not fail; and seconds, over all its starts.

    Raises:
        ConfigError: if the folder holds the run of another config.
    """
    import yaml

    trainer = {**config["trainer"], "default_root_dir": os.path.relpath(folder / "rerun")}
    text = yaml.safe_dump({**config, "trainer": trainer}, sort_keys=False)
    file, result = folder / CONFIG, read_result(folder)
    if file.exists() and file.read_text() != text:
        raise _AnotherJobError("another job", "the same one, or a new folder", str(file), "hydra.sweep.dir")
    (folder / REFUSED).unlink(missing_ok=True)
    if result is not None and not result["error"]:
        return result
    file.write_text(text)
    words = ["--config", str(file), "--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
    status, seconds = fit_process(words, folder / LOG, small=trainer.get("accelerator") == "cpu")
    error = f"exit status {status}: {last_error(folder / LOG)}" if status else ""
    return _write_result(folder, error, seconds + (result["seconds"] if result else 0.0))


def _write_result(folder: Path, error: str, seconds: float) -> dict[str, Any]:
    result = {"error": error, "seconds": seconds}
    write_atomic(folder / RESULT, lambda part: part.write_text(json.dumps(result) + "\n"))
    return result


def _objective(folder: Path, name: str, missing: float) -> float:
    from capo_lit.records.curves import read_curves

    curve = read_curves(folder).get(name, {})
    if not curve:
        sys.stderr.write(f"capo-sweep: {folder.name}: objective {name!r} is no metric of this run\n")
    return curve[max(curve)] if curve else missing


if __name__ == "__main__":
    # Hydra finds Summary in the module of this name, not in __main__, which would be a second one.
    from capo_lit.cli.sweep import main as imported_main

    sys.exit(imported_main())
