"""The paper's benchmarks as lm-eval tasks: each judged by our verifier, on real rows where the data is here."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from capo_lit.cli import smollm2
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.engines.hf import HFEngine
from capo_lit.evaluation.benchmarks.answers import verifier
from capo_lit.evaluation.benchmarks.model import EngineLM
from capo_lit.evaluation.benchmarks.tasks import BENCHMARKS, describe_tasks, load_tasks, run_tasks

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("CAPO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data; set CAPO_SHARED_DATA")
ROWS = {"capo_aime24": 30, "capo_amc23": 40, "capo_gsm8k": 659, "capo_olympiadbench": 330}
# (repeats, temperature, max_gen_toks)
SAMPLING = {
    "capo_aime24": (32, 0.6, 3072),
    "capo_amc23": (32, 0.6, 3072),
    "capo_math500": (1, 0.0, 3072),
    "capo_olympiadbench": (1, 0.0, 3072),
    "capo_minerva": (1, 0.0, 3072),
    "capo_gsm8k": (1, 0.0, 1024),
    "capo_gpqa": (4, 0.6, 2048),
    "capo_arc_c": (1, 0.0, 2048),
    "capo_mmlu_pro": (1, 0.0, 2048),
}


class Knowing(LM):
    """Answers every document in a box, rightly or wrongly."""

    def __init__(self, right: bool = True) -> None:
        super().__init__()
        self.right = right

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        gold = [item.doc["answer"].split("####")[-1].strip() for item in requests]
        return [f"so it is\n\n\\boxed{{{answer if self.right else 17}}}" for answer in gold]

    def loglikelihood(self, requests: Any) -> Any:
        raise AssertionError("benchmarks generate")

    loglikelihood_rolling = loglikelihood


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    verifier().close()


@pytest.fixture
def made_up(tmp_path: Path) -> str:
    """One row for every benchmark, in our format."""
    for name in SAMPLING:
        folder = tmp_path / name.removeprefix("capo_")
        folder.mkdir()
        choices = {"choices": ["one", "two", "three"], "answer": "B"}
        answers = {"answer": "\\frac{1}{2}"}
        row = {"problem": "Which?"} | (choices if name in ("capo_gpqa", "capo_arc_c", "capo_mmlu_pro") else answers)
        (folder / "test.jsonl").write_text(json.dumps(row) + "\n")
    return str(tmp_path)


def test_there_is_a_task_for_every_benchmark_of_the_paper_with_a_sampling_of_its_own(made_up: str) -> None:
    assert {f"capo_{path.stem}" for path in BENCHMARKS.glob("[a-z]*.yaml")} == set(SAMPLING)
    described = describe_tasks(load_tasks(list(SAMPLING), data_dir=made_up))
    drawn = {name: item["sampling"] for name, item in described.items()}
    assert {n: (s["repeats"], s["temperature"], s["max_gen_toks"]) for n, s in drawn.items()} == SAMPLING
    assert all(s["do_sample"] == (s["temperature"] > 0) for s in drawn.values())


def test_the_documents_table_says_what_the_task_files_say(made_up: str) -> None:
    lines = (BENCHMARKS.parents[2] / "docs" / "benchmarks.md").read_text().splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| capo_")]
    loaded = load_tasks(list(SAMPLING), data_dir=made_up)["tasks"]
    hubs = {name: task.config.dataset_kwargs["hub"]["path"] for name, task in loaded.items()}
    assert table == [[name, hubs[name], *map(str, SAMPLING[name])] for name in SAMPLING]


def test_the_same_answer_is_right_however_it_is_written(made_up: str) -> None:
    tasks = load_tasks(list(SAMPLING), data_dir=made_up, repeats=2)
    values = run_tasks(Knowing(), tasks)
    assert {name: values[f"{name}/avg_at_k"] for name in SAMPLING} == dict.fromkeys(SAMPLING, 1.0)
    values = run_tasks(Knowing(right=False), tasks)
    assert {name: values[f"{name}/avg_at_k"] for name in SAMPLING} == dict.fromkeys(SAMPLING, 0.0)
    assert {name: values[f"{name}/unknown_frac"] for name in SAMPLING} == dict.fromkeys(SAMPLING, 0.0)


def test_prompts_show_problem_choices_and_where_the_answer_goes(made_up: str) -> None:
    tasks = load_tasks(["capo_arc_c", "capo_minerva"], data_dir=made_up)
    run_tasks(Knowing(), tasks)
    prompts = {name: task.instances[0].args[0] for name, task in tasks["tasks"].items()}
    assert prompts["capo_arc_c"].startswith("Which?\n\n(A) one\n(B) two\n(C) three\n\n")
    assert prompts["capo_minerva"].startswith("Which?\n\n")
    assert all(prompt.endswith("in \\boxed{}.") for prompt in prompts.values())


@needs_data
def test_gold_answers_of_the_real_rows_are_right_by_our_verifier() -> None:
    tasks = load_tasks(list(ROWS), data_dir=str(DATA), repeats=1)
    described = describe_tasks(tasks)
    assert {name: item["problems"] for name, item in described.items()} == ROWS
    assert len({item["sha256"] for item in described.values()}) == len(ROWS)
    values = run_tasks(Knowing(), tasks, limit=25)
    assert {name: values[f"{name}/avg_at_k"] for name in ROWS} == dict.fromkeys(ROWS, 1.0)


@needs_data
def test_a_real_model_answers_real_rows() -> None:
    engine = HFEngine(str(smollm2.prepare()), dtype="float32")
    engine.max_model_len = 2048
    names = ["capo_amc23", "capo_gsm8k"]  # one that is sampled, one that is greedy
    tasks = load_tasks(names, data_dir=str(DATA), repeats=2, gen_kwargs={"max_gen_toks": 24})
    lm = EngineLM(engine)
    values = run_tasks(lm, tasks, limit=1, apply_chat_template=True)
    assert set(values) == {f"{name}/{metric}" for name in names for metric in ("avg_at_k", "pass_at_k", "unknown_frac")}
    assert all(0.0 <= value <= 1.0 for value in values.values())
    assert 4 * 2 < lm.generated_tokens <= 4 * 24
    engine.close()


@pytest.mark.nightly  # lm-eval indexes 14,000 tasks of its own
def test_a_name_that_nobody_knows_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"task 'capo_gsm9k'.*nearest: \['capo_gsm8k'"):
        load_tasks(["capo_gsm9k"])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("capo_gsm8k", "data_dir"),
        # Again all of lm-eval's tasks.
        pytest.param("arc_easy", "let the hub be reached", marks=pytest.mark.nightly),
    ],
)
def test_data_that_cannot_be_had_is_said_with_what_to_change(name: str, change: str) -> None:
    with pytest.raises(DataError, match=f"Couldn't reach.*Change: {change}"):
        load_tasks([name])
