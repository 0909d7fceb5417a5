"""Plant faults in copies of the core, one at a time, and see that the unit tests notice each.

`python tests/support/mutation_check.py` exits with 1 if a fault survives, or if its place is no longer found.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORES = 2
DEADLINE_S = 1200


@dataclass(frozen=True)
class Mutation:
    """One fault: in capo_lit/core/`file`, `old` (which must stand there once) becomes `new`."""

    name: str
    file: str
    old: str
    new: str


_CREDIT = ("test_credit.py", "test_credit_properties.py")
_LOSS = ("test_loss.py", "test_loss_properties.py")
TESTS = {
    "votes.py": ("test_votes.py",),
    "steps.py": ("test_steps.py",),
    "credit.py": _CREDIT,
    "reduce.py": _CREDIT,
    "loss.py": _LOSS,
    "logprobs.py": ("test_logprobs.py",),
}

MUTATIONS = [
    Mutation("a tie is no majority", "votes.py", "float(2 * c >= v)", "float(2 * c > v)"),
    Mutation("no valid critique means wrong", "votes.py", "Verdict((0.0,) *", "Verdict((1.0,) *"),
    Mutation(
        "settled forgets abstentions", "votes.py", "if valid == 0:\n        # If all", "if False:\n        # If all"
    ),
    Mutation("settled majority, a tie lost", "votes.py", "+ outstanding < valid", "+ outstanding <= valid"),
    Mutation("settled majority, more may clear", "votes.py", "2 * count >= valid + out", "2 * count >= valid - out"),
    Mutation("settled intersection too early", "votes.py", "lambda c, v, o: c < v", "lambda c, v, o: c <= v"),
    Mutation(
        "separator goes to the next step",
        "steps.py",
        "[match.end() for match in _BLANK",
        "[match.start() for match in _BLANK",
    ),
    Mutation("whitespace makes a step", "steps.py", "if text[start:end].strip()]", "if text[start:end]]"),
    Mutation("special tokens join a step", "steps.py", "-1 if is_special else", "-1 if not piece else"),
    Mutation("tokens past the end join a step", "steps.py", "offset < spans[step][1]", "offset <= spans[step][1]"),
    Mutation("wrong steps are rewarded", "credit.py", "w_whole - step_error", "w_whole + step_error"),
    Mutation("advantages without a mask", "credit.py", "valid = mask & ~rewards", "valid = ~rewards"),
    Mutation("unknown outcomes count", "credit.py", "mask & ~rewards.isnan()", "mask"),
    Mutation("pooled eps of GRPO", "credit.py", "_ROW_EPS = 1e-6,", "_ROW_EPS = 1e-4,"),
    Mutation("std not floored", "credit.py", ".clamp(min=std_floor)", ""),
    Mutation("cap on one side", "credit.py", "clamp(-max_abs_advantage, max", "clamp(max=max"),
    Mutation("rounding taken for signal", "credit.py", "_DIFFERENCE_NOISE = 1e-6", "_DIFFERENCE_NOISE = 0.0"),
    Mutation("ddof 0", "reduce.py", "(count - 1).clamp", "count.clamp"),
    Mutation("flat groups divided", "reduce.py", "flat = ~(spread >", "flat = (count < 1) & ~(spread >"),
    Mutation(
        "mask by product",
        "reduce.py",
        "torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))",
        "values * mask",
    ),
    Mutation("max for min", "loss.py", "-torch.minimum(ratio", "-torch.maximum(ratio"),
    Mutation("sign of the surrogate", "loss.py", "loss = -torch.minimum", "loss = torch.minimum"),
    Mutation("clip sides swapped", "loss.py", "ratio.clamp(1 - low, 1 + high)", "ratio.clamp(1 - high, 1 + low)"),
    Mutation("dual clip on good tokens", "loss.py", "torch.where(adv < 0, torch", "torch.where(adv > 0, torch"),
    Mutation("gradient through old", "loss.py", "(logprobs, old_logprobs.detach(),", "(logprobs, old_logprobs,"),
    Mutation("importance not capped", "loss.py", "if importance_cap is None else", "if True else"),
    Mutation("weight upside down", "loss.py", "_ratio(old, engine)", "_ratio(engine, old)"),
    Mutation("KL the wrong way", "loss.py", "_log_ratio(ref, now)", "_log_ratio(now, ref)"),
    Mutation("empty rows count", "loss.py", "mask.any(1).sum(", "mask.any(1).ge(0).sum("),
    Mutation("statistics not added", "loss.py", "total[name] + value", "total[name] + 0 * value"),
    Mutation("logits reduced in bfloat16", "logprobs.py", "head, shift).float())", "head, shift))"),
    Mutation("temperature multiplied", "logprobs.py", "logits.div_(self.temperature)", "logits.mul_(self.temperature)"),
    Mutation("temperature not in the gradient", "logprobs.py", "self.scale / self.temperature", "self.scale"),
    Mutation("softmax with its sign lost", "logprobs.py", "mul_(-grad[:, None])", "mul_(grad[:, None])"),
    Mutation("slope of the softcap left out", "logprobs.py", "if slope is not None:", "if False:"),
    Mutation("entropy with a gradient", "logprobs.py", "ctx.mark_non_differentiable(entropy)", "pass"),
    Mutation("last chunk kept for all", "logprobs.py", "logits if hidden.shape[0] <= chunk else None", "logits"),
]


def build_copy(folder: Path) -> None:
    """Copy what the core's unit tests need; the copy stands before any installed package."""
    for name in ("capo_lit/core", "tests/core"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests" / "support").mkdir()
    for name in (
        "pyproject.toml",
        "capo_lit/__init__.py",
        "tests/__init__.py",
        "tests/conftest.py",
        "tests/support/__init__.py",
    ):
        shutil.copy(ROOT / name, folder / name)
    for name in ("tests/support/reference.py", "tests/support/ragged.py", "tests/support/shared.py"):
        shutil.copy(ROOT / name, folder / name)


def run_tests(folder: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Exit status of pytest over the copy (0 passed, 1 a test failed, else broken), and the end of its output."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", f"--rootdir={folder}"]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main([*arguments, *(f"tests/core/{name}" for name in tests)])
    return int(status), output.getvalue()[-2000:]


def complaint_of(mutation: Mutation) -> str:
    """What is wrong with the tests, or with the mutation; empty if a test noticed it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_copy(folder)
        path = folder / "capo_lit" / "core" / mutation.file
        source = path.read_text(encoding="utf-8")
        if source.count(mutation.old) != 1:
            return f"got {source.count(mutation.old)} places with {mutation.old!r} in {mutation.file}; expected 1"
        path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
        status, output = run_tests(folder, TESTS[mutation.file])
    if status == 0:
        return "survived"
    return "" if status == 1 else f"pytest ended with {status}, not with a failed test:\n{output}"


def complaint_of_the_original(tests: tuple[str, ...]) -> str:
    """The unmutated copy must pass: else every mutation would seem to be noticed."""
    with tempfile.TemporaryDirectory() as name:
        build_copy(Path(name))
        status, output = run_tests(Path(name), tests)
    return "" if status == 0 else f"the tests fail without any mutation:\n{output}"


def main() -> int:
    """Run all; 0 if every mutation was noticed."""
    os.environ |= {"OMP_NUM_THREADS": "1", "CAPO_HYPOTHESIS_PROFILE": "mutation"}
    sys.dont_write_bytecode = True
    # Loaded once, here; every run is a fork of this process, which has nothing of the project loaded yet.
    import beartype
    import hypothesis
    import torch

    assert not any(name.split(".")[0] == "capo_lit" for name in sys.modules), (beartype, hypothesis, torch)
    originals = sorted(set(TESTS.values()))
    with multiprocessing.get_context("fork").Pool(CORES, maxtasksperchild=1) as pool:
        unmutated = pool.map_async(complaint_of_the_original, originals, chunksize=1)
        complaints = pool.map_async(complaint_of, MUTATIONS, chunksize=1).get(DEADLINE_S)
        failures = [f"{m.file}: {m.name}: {c}" for m, c in zip(MUTATIONS, complaints, strict=True) if c]
        failures += [complaint for complaint in unmutated.get(DEADLINE_S) if complaint]
    sys.stdout.write("".join(f"{line}\n" for line in failures))
    sys.stdout.write(f"{len(MUTATIONS) - sum(map(bool, complaints))} of {len(MUTATIONS)} mutations noticed\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
