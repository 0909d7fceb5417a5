"""`capo critique` in processes of its own: killed and resumed, and with a real model in vLLM."""

import json
import os
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capo_lit.cli import smollm2
from tests.support import forked

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "import sys; from capo_lit.cli.critique import main; sys.exit(main(sys.argv[1:]))"]
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

ROWS = [
    {"id": "sum", "problem": "What is 2 + 3?", "steps": ["2 + 3 = 5.", "The answer is 5."], "label": -1},
    {"id": "product", "problem": "What is 4 * 6?", "steps": ["4 * 6 = 26.", "The answer is 26."], "label": 0},
    {"id": "whole", "problem": "What is 9 - 4?", "solution": "9 - 4 = 5.\n\nThe answer is 5.", "label": -1},
    {"id": "late", "problem": "What is 1 + 1 + 1?", "steps": ["1 + 1 = 2.", "2 + 1 = 4."], "label": 1},
]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "problem": f"p{i} replies 0;none", "steps": ["a"], "label": 0} for i in range(8)]
    log, output = tmp_path / "log", tmp_path / "o.parquet"
    journal = tmp_path / "o.parquet.journal"
    arguments = [str(write(tmp_path / "in.jsonl", rows)), "--output", str(output), "--chunk=1", "--judge.k=2"]
    arguments += ["--judge.engine=tests.support.logged_engine.LoggedEngine", f"--judge.engine.log={log}"]

    def start(delay_s: float) -> BaseProcess:
        words = ["critique", *arguments]
        return forked.start(forked.capo, words, tmp_path, LOGGED_ENGINE_DELAY_S=str(delay_s))

    process = start(delay_s=0.3)
    try:
        deadline = time.monotonic() + 60
        while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):  # the settings and three results
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.01)
    finally:
        process.kill()
        process.join()
    assert not output.exists()
    known = {json.loads(line)["id"] for line in journal.read_bytes().splitlines(keepends=True)[1:] if b"\n" in line}
    assert 3 <= len(known) < 8
    log.write_text("")
    assert forked.status(start(delay_s=0.0), 60) == 0
    assert set(log.read_text().split()) == {row["id"] for row in rows} - known
    assert [row["id"] for row in pq.read_table(output).to_pylist()] == [row["id"] for row in rows]
    assert not journal.exists()


@pytest.mark.nightly
def test_a_real_model_in_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    model = smollm2.prepare()
    source, output, scores = write(tmp_path / "in.jsonl", ROWS), tmp_path / "o.parquet", tmp_path / "scores.json"
    command = [*COMMAND, str(source), "--config", str(ROOT / "configs" / "judge" / "smollm2.yaml")]
    command += ["--judge.engine.model", str(model), "--judge.engine.max_model_len=2048"]
    command += ["--judge.sampling.max_tokens=24", "--output", str(output), "--scores", str(scores)]
    runs = []
    for size in (2, 4, 4):
        done = subprocess.run(
            [*command, f"--sample={size}"], env=ENVIRONMENT, cwd=tmp_path, timeout=300, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        runs.append((pq.read_table(output).to_pylist(), json.loads(scores.read_text()), done.stdout))
    assert [run[1]["judged_now"] for run in runs] == [2, 2, 0]
    first, second, third = (run[0] for run in runs)
    assert [row for row in second if row["id"] in {row["id"] for row in first}] == first
    assert third == second
    assert [row["id"] for row in third] == [row["id"] for row in ROWS]
    critiques = [critique for row in third for critique in row["critiques"]]
    assert len(critiques) == 8
    assert all(0 < critique["completion_tokens"] <= 24 and critique["prompt_tokens"] > 50 for critique in critiques)
    assert {critique["cause"] for critique in critiques} <= {"", "parse", "length"}
    # The two critiques of a solution have seeds of their own.
    assert any(row["critiques"][0]["reply"] != row["critiques"][1]["reply"] for row in third)
    voted = runs[2][1]["voted"]["majority"]
    assert (voted["erroneous"], voted["correct"]) == (2, 2)
    assert voted["unanswered"] == sum(row["valid"] == 0 for row in third)
    assert "F1" in runs[2][2]
