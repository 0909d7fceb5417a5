"""capo inspect as a command: which rollouts it takes, what it refuses, what it writes and serves."""

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_lit.cli.inspect import main
from capo_lit.records.viewer.rows import spread
from capo_lit.records.viewer.serve import server
from tests.support.viewer_page import Page, inspect
from tests.support.viewer_world import long_run, small_run, solution, write_curves, write_step


@pytest.mark.slow
def test_a_limit_keeps_whole_groups_from_beginning_to_end(tmp_path: Path) -> None:
    # 20 steps of 5 groups of 10: 100 groups. A limit of 95 rows has room for 9 of them.
    page = inspect(tmp_path, long_run(tmp_path / "run", 1000), "--limit", "95")
    index = page.index
    assert (index["total"], index["limit"], len(page.rollouts)) == (1000, 95, 90)
    groups = index["columns"]["group"]
    assert [groups.count(group) for group in dict.fromkeys(groups)] == [10] * 9
    steps = index["columns"]["step"]
    assert (steps[0], steps[-1]) == (0, 19)
    assert max(np.diff(steps)) <= 3  # evenly: 8 gaps over 19 steps


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 80))
def test_a_limit_is_never_exceeded_and_never_keeps_nothing(sizes: list[int], limit: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    kept = spread(groups, limit)
    assert 1 <= kept.sum() <= limit or kept.all()
    if len(groups) <= limit:
        assert kept.all()


def test_steps_choose_files(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    for text, steps in (("1", {1}), ("1:", {1, 2}), (":1", {0, 1}), ("0:1", {0, 1}), ("2:9", {2})):
        assert set(inspect(tmp_path, run, "--steps", text).index["columns"]["step"]) == steps, text


def test_runs_folders_and_files_are_found_and_told_apart(tmp_path: Path) -> None:
    first, second = small_run(tmp_path / "a" / "toy"), small_run(tmp_path / "b" / "toy")
    page = inspect(tmp_path, first, second / "records", first / "records" / "step-00000002.parquet")
    names = [run["name"] for run in page.index["runs"]]
    assert names == [str(first), str(second / "records"), str(first / "records" / "step-00000002.parquet")]
    assert all(run["curves"] for run in page.index["runs"])
    assert page.index["columns"]["run"] == [0] * 9 + [1] * 9 + [2] * 3


@pytest.mark.slow
def test_many_rollouts_make_a_small_page(tmp_path: Path) -> None:
    page = inspect(tmp_path, long_run(tmp_path / "run", 2000))
    assert len(page.rollouts) == page.index["total"] == 2000
    plain = len(json.dumps(page.rollouts))
    assert (tmp_path / "page.html").stat().st_size < plain / 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{tmp}/none"], "no files step-*.parquet with rows; expected a run with records"),
        (["{tmp}/empty"], "no files step-*.parquet"),
        (["{tmp}/run", "--steps", "7:9"], "got steps 0 to 2; expected some of --steps"),
        (["{tmp}/run/records/step-00000002.parquet", "--steps", ":1"], "got steps 2 to 2; expected some of --steps"),
        (["{tmp}/run", "--limit", "0"], "got 0; expected at least 1. Change: --limit"),
        (["{tmp}/broken"], "a file that cannot be read"),
        (["{tmp}/torn"], "a row that cannot be read"),
        (["{tmp}/run", "--out", "{tmp}/mine.txt"], "a file that capo inspect did not write"),
        (["{tmp}/run", "--out", "{tmp}/mine.txt/page.html"], "--out"),
        (["{tmp}/run", "--out", "{tmp}"], "a file that capo inspect did not write"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], args: list[str], said: str
) -> None:
    small_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine.txt").write_text("precious")
    (tmp_path / "broken" / "records").mkdir(parents=True)
    (tmp_path / "broken" / "records" / "step-00000000.parquet").write_bytes(b"PAR1 but not really")
    write_step(tmp_path / "torn", 0, [solution(0, 0, 0)])
    write_curves(tmp_path / "torn")
    log = tmp_path / "torn" / "csv" / "version_0" / "metrics.csv"
    log.write_text(log.read_text() + "0,0.5,0.1.2\n")
    assert main([word.format(tmp=tmp_path) for word in args]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("capo inspect: ")
    assert said in output.err
    assert output.err.count("\n") == 1
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_steps_that_are_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("a", ":", "1-2", "-1", ""):
        with pytest.raises(SystemExit):
            main(["run", f"--steps={text}"])
        assert "expected FIRST:LAST" in capsys.readouterr().err


def test_its_own_page_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert main([str(run), "--steps", "0"]) == 0
    assert main([str(run)]) == 0
    assert Page(Path("inspect.html").read_text(encoding="utf-8")).index["total"] == 9


def test_the_server_shows_the_page_on_loopback_and_to_loopback_names_alone() -> None:
    with server("<p>page</p>", 0) as serving:
        assert serving.server_address[0] == "127.0.0.1"
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            where = f"http://127.0.0.1:{serving.server_port}"
            with urllib.request.urlopen(where, timeout=5) as answer:
                assert answer.read() == b"<p>page</p>"
                assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
            for path, host, status in (("/etc/passwd", "localhost", 404), ("/", "rebound.example", 403)):
                request = urllib.request.Request(where + path, headers={"Host": f"{host}:{serving.server_port}"})
                with pytest.raises(urllib.error.HTTPError) as error:
                    urllib.request.urlopen(request, timeout=5)
                assert error.value.code == status
        finally:
            serving.shutdown()
            thread.join()


def test_a_port_in_use_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "run")
    with server("", 0) as serving:
        assert main([str(run), "--serve", str(serving.server_port)]) == 1
    assert f"got port {serving.server_port}, which is in use; expected a port that is free" in capsys.readouterr().err
    assert main([str(run), "--serve", "99999999"]) == 1
    assert "expected a port that is free" in capsys.readouterr().err
