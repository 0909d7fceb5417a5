"""How long the verifier takes for a batch, here and in another checkout, measured in turns in one run.

    git worktree add /tmp/before COMMIT
    python bench/verifier_speed.py --against /tmp/before

Batches: 256 answers of which 10 % are bombs that only a killed worker ends; 256 that need algebra; 256 plain numbers;
and one response with 19,000 blanks after "answer". Each in a process of its own; seconds are medians over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
ROUNDS = 3

CHILD = """
import json, random, sys, time
from capo_lit import Verifier

draw = random.Random(0)
bombs = ["9^{9^{9^{%d}}}", "(2^{10^{%d}})!", "(x+1)^{%d99999}(x-1)^{%d99999}"]
algebra = [("\\\\frac{\\\\sqrt{%d}}{%d}" % (a, a), "\\\\boxed{\\\\frac{1}{\\\\sqrt{%d}}}" % a) for a in range(2, 258)]
numbers = [(str(a), "so the answer is %d." % (a + a % 2)) for a in range(256)]
mixed = [("%d" % a, "\\\\boxed{%d}" % (a + a % 3)) for a in range(230)]
mixed += [("x^%d" % a, "\\\\boxed{" + bombs[a % 2].replace("%d", str(a + 7)) + "}") for a in range(26)]
draw.shuffle(mixed)
blanks = [("5", "the answer" + " " * 19000 + "is 5")]
seconds = {}
with Verifier(timeout_s=1.0, workers=2) as verifier:
    verifier.score([("x+1", "\\\\boxed{1+x}")])
    for name, batch in (("10 % bombs", mixed), ("algebra", algebra), ("numbers", numbers), ("blanks", blanks)):
        start = time.perf_counter()
        verifier.score(batch)
        seconds[name] = time.perf_counter() - start
print(json.dumps(seconds))
"""


def measure(root: Path) -> dict[str, float]:
    """Seconds by batch in a fresh process with the package of one checkout."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=root,
        timeout=600,
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, metavar="DIR", help="another checkout")
    against = parser.parse_args().against.resolve()
    runs: dict[str, list[dict[str, float]]] = {"there": [], "here": []}
    for _ in range(ROUNDS):
        runs["there"].append(measure(against))
        runs["here"].append(measure(HERE))
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {ROUNDS}, seconds")
    for name in runs["here"][0]:
        there, here = (statistics.median(run[name] for run in runs[side]) for side in ("there", "here"))
        print(f"{name:12} there {there:8.3f}  here {here:8.3f}")


if __name__ == "__main__":
    main()
