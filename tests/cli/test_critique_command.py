"""`capo critique` with a logged engine: its output, its scores, and runs that go on where others stopped."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capo_lit.cli.critique import _parser, main
from capo_lit.core.errors import EngineError
from capo_lit.records.critiques import CritiqueFile
from tests.support.logged_engine import LoggedEngine

CONFIGS = Path(__file__).parents[2] / "configs" / "judge"

FILE = [
    {"id": "p0", "problem": "p0 replies 1;1", "steps": ["a", "b"], "label": 1},
    {"id": "p1", "problem": "p1 replies 0;none", "steps": ["a", "b"], "label": 0},
    {"id": "p2", "problem": "p2 replies none;none", "solution": "a\n\nb", "label": -1},
    {"id": "p3", "problem": "p3 replies 7;7", "solution": "a\n\nb", "label": -1},
]


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def command(tmp_path: Path):
    """Runs `capo critique` on FILE; returns its status, the problems that were asked, and the output's rows."""
    write(tmp_path / "in.jsonl", *FILE)

    def run(*extra: str) -> tuple[int, list[str], list[dict]]:
        log, output = tmp_path / "log", tmp_path / "out" / "o.parquet"
        log.write_text("")
        engine = ["--judge.engine=tests.support.logged_engine.LoggedEngine", f"--judge.engine.log={log}", "--judge.k=2"]
        paths = [f"--output={output}", f"--scores={tmp_path}/scores.json"]
        status = main([str(tmp_path / "in.jsonl"), *engine, *paths, *extra])
        return status, log.read_text().split(), pq.read_table(output).to_pylist() if output.exists() else []

    return run


def test_the_command_writes_verdicts_and_scores(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, asked, rows = command()
    assert (status, asked) == (0, ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"])
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert rows[0]["critiques"][0]["reply"] == r"\boxed{1}"
    assert rows[1]["step_error_average"] == [0.5, 0.0]
    assert [row["first_wrong"] for row in rows] == [1, 0, -1, None]
    assert not list((tmp_path / "out").glob("*.journal"))
    scores = json.loads((tmp_path / "scores.json").read_text())
    # Majority of two (one is enough): p0 and p1 hit; p2 right, p3 without a verdict (there is no step 7) wrong.
    # F1 = 2 * 1 * 0.5 / 1.5. Intersection clears p1: 1/2 and 1/2, F1 1/2.
    assert scores["voted"]["majority"] == {
        "erroneous": 2,
        "correct": 2,
        "accuracy_erroneous": 1.0,
        "accuracy_correct": 0.5,
        "f1": pytest.approx(2 / 3),
        "unanswered": 1,
    }
    assert scores["voted"]["intersection"]["f1"] == 0.5
    # First critiques score as the majority does, second ones as the intersection: mean F1 (2/3 + 1/2) / 2.
    assert scores["single"]["f1"] == pytest.approx(7 / 12)
    # p0 and p2 agree, p1 does not, p3 has no valid critique.
    assert scores["agreement"]["solutions"] == 3
    assert scores["agreement"]["same_first"] == pytest.approx(2 / 3)
    # Prompts of 7 tokens; "\boxed{1}" is one word and an end token.
    assert (scores["prompt_tokens"], scores["completion_tokens"]) == (56, 16)
    printed = capsys.readouterr().out
    assert "majority (the judge's)" in printed
    assert "66.7" in printed
    assert "58.3" in printed


def test_what_is_there_is_not_judged_again(command, tmp_path: Path) -> None:
    _, first_asked, rows = command("--sample=2")
    assert len(rows) == 2
    status, asked, rows = command("--judge.engine.max_num_seqs=3", "--judge.deadline_s=5")
    assert (status, len(rows)) == (0, 4)
    assert sorted([*first_asked, *asked]) == ["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"]
    first = json.loads((tmp_path / "scores.json").read_text())
    status, asked, again = command()
    assert (status, asked) == (0, [])
    assert again == rows
    second = json.loads((tmp_path / "scores.json").read_text())
    assert second.pop("judged_now") == 0
    assert {name: second[name] for name in ("voted", "single", "agreement")} == {
        name: first[name] for name in ("voted", "single", "agreement")
    }
    # Fewer rows lose none that were judged; a row that was changed is judged again.
    assert len(command("--sample=1")[2]) == 4
    write(tmp_path / "in.jsonl", {**FILE[0], "steps": ["a", "c"]}, *FILE[1:])
    assert command()[1] == ["p0", "p0"]


@pytest.mark.parametrize("setting", ["--judge.k=3", "--seed=1", "--judge.vote=union", "--judge.sampling.max_tokens=9"])
def test_other_settings_do_not_mix(command, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    command()
    status, asked, rows = command(setting)
    assert (status, asked, len(rows)) == (1, [], 4)
    error = capsys.readouterr().err
    assert setting.removeprefix("--").split("=")[0] in error
    assert "--output" in error


def test_failed_critiques_are_asked_again(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = LoggedEngine._reply

    def without_p1(self, request):
        scripted = reply(self, request)
        return EngineError("no server", "a server") if "p1 " in request.prompt[0]["content"] else scripted

    with monkeypatch.context() as patch:
        patch.setattr(LoggedEngine, "_reply", without_p1)
        status, _, rows = command()
    assert (status, rows[1]["first_wrong"]) == (0, None)
    assert rows[1]["critiques"][0]["cause"].startswith("error: ")
    status, asked, rows = command()
    assert (status, asked, rows[1]["first_wrong"]) == (0, ["p1", "p1"], 0)


def test_an_interrupted_run_goes_on(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = LoggedEngine._reply

    def interrupted(self, request):
        if "p2 " in request.prompt[0]["content"]:
            raise KeyboardInterrupt
        return reply(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(LoggedEngine, "_reply", interrupted)
        assert command("--chunk=1") == (130, ["p0", "p0", "p1", "p1"], [])
    journal = tmp_path / "out" / "o.parquet.journal"
    # A writer that was killed in the middle of a line.
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:50])
    status, asked, rows = command()
    assert (status, asked, len(rows)) == (0, ["p2", "p2", "p3", "p3"], 4)


def test_a_judge_without_a_server_stops_the_command(command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--judge.engine.down=true")[::2] == (1, [])
    assert "no reply to the first 8 requests" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--sample=0"], "--sample"),
        (["--chunk=0"], "--chunk"),
        (["--judge.sampling.temperature=0"], "temperature"),
        (["--judge.sampling.top_p=2"], "top_p"),
        (["--judge.reference=true"], "in.jsonl:1"),
    ],
)
def test_bad_settings(command, capsys: pytest.CaptureFixture[str], settings: list[str], said: str) -> None:
    assert command(*settings)[0] == 1
    assert said in capsys.readouterr().err


def test_files_that_are_not_ours_are_left_alone(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out" / "o.parquet"
    output.parent.mkdir()
    pq.write_table(pa.table({"a": [1]}), output)
    before = output.read_bytes()
    assert command()[0] == 1
    assert output.read_bytes() == before
    assert "another origin" in capsys.readouterr().err


def test_one_writer_at_a_time(command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with CritiqueFile(tmp_path / "out" / "o.parquet", {}):
        assert command()[:2] == (1, [])
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_judge_config_parses(config: Path) -> None:
    args = _parser().parse_args(["in.jsonl", "--config", str(config)])
    assert args.judge.engine.class_path.startswith("capo_lit.")
    assert args.judge.early_stop is False
