"""The runs of the quickstart: which configs they have, and `capo fit` in a process of its own for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capo_lit.cli.compose import CONFIGS
from capo_lit.cli.process import fit_process, last_error
from capo_lit.core.errors import CapoError

JUDGE_SFT = "pocket_judge_sft.yaml"
FEW_PROBLEMS = 16  # of an evaluation that measures nothing, only runs


class RunError(CapoError):
    """A `capo` subprocess ended with an error."""


@dataclass(frozen=True)
class Regime:
    """Which configs a quickstart runs.

    Attributes:
        sft: of the cold start.
        rl: of the CAPO arm whose judge is a rule; the GRPO arm lays algorithm/grpo.yaml over it.
        genprm: of the CAPO arm whose judge is the pocket judge; None if there is no such arm.
    """

    sft: str
    rl: str
    genprm: str | None = None


REGIMES = {
    "standard": Regime("quickstart_sft.yaml", "quickstart.yaml", "quickstart_genprm.yaml"),
    "sparse": Regime("quickstart_sparse_sft.yaml", "quickstart_sparse.yaml"),
}


def fit(
    config: Sequence[str], root: Path, policy: Path, seed: int, extra: Sequence[str] = (), log: Path | None = None
) -> float:
    """Run `capo fit` in a process of its own.

    Args:
        config: files of configs/, the later ones over the earlier.
        root: the run's folder.
        policy: to start from.
        seed: of the run.
        extra: further arguments.
        log: file that takes the output; None shows it.

    Returns:
        Its wall time, seconds.

    Raises:
        RunError: if it fails.
    """
    files = [word for name in config for word in ("--config", str(CONFIGS / name))]
    words = [*files, "--policy", str(policy), "--trainer.default_root_dir", str(root), "--seed_everything", str(seed)]
    status, seconds = fit_process([*words, *extra], log)
    if status:
        told = "see the message above" if log is None else f"see {log}: {last_error(log)}"
        raise RunError(f"exit status {status}", "0", f"capo fit {' '.join([*words, *extra])}", told)
    return seconds


def few_steps(steps: int | None) -> list[str]:
    """Arguments that end a run after so many steps of training, with a small evaluation there; none for None."""
    if steps is None:
        return []
    return [f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={steps}", f"--data.val.size={FEW_PROBLEMS}"]


def cold_start(regime: Regime, root: Path, seed: int, extra: Sequence[str] = ()) -> tuple[Path, float]:
    """Write a random policy and fine-tune it on demonstrations; `extra` as for `fit`.

    Returns:
        The directory of the trained policy, and the wall time of its training, seconds.
    """
    from capo_lit.arithmetic.model import write_initial_model

    initial = write_initial_model(root / "initial", seed)
    seconds = fit([regime.sft], root / "sft", initial, seed, extra)
    return root / "sft" / "policy", seconds


def arm_name(arm: str) -> str:
    """An arm's name as part of a path."""
    return arm.lower().replace(" ", "_")


def arms(regime: Regime) -> dict[str, list[str]]:
    """The config files of the arms that need no judge to be trained."""
    return {"CAPO rule": [regime.rl], "GRPO": [regime.rl, "algorithm/grpo.yaml"]}
