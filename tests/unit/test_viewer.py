"""capo inspect: what the page holds, that it holds it safely, what is left out, and what is refused."""

import base64
import gzip
import json
import re
import threading
import tomllib
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capo_lit.viewer
from capo_lit.inspect_cli import main
from capo_lit.records import read_records
from capo_lit.viewer.page import MARK, SCRIPTS, embed
from capo_lit.viewer.rows import details, spread, summary
from capo_lit.viewer.serve import server
from tests.viewer_world import HOSTILE, hostile_run, long_run, small_run, solution, write_curves, write_step

PACKAGE = Path(capo_lit.viewer.__file__).parent


class Page(HTMLParser):
    """The elements of a page as a browser's parser finds them, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts and data.strip():
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    @property
    def index(self) -> dict[str, Any]:
        return dict(json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "index")))

    @property
    def rollouts(self) -> list[dict[str, Any]]:
        chunks = [text for attributes, text in self.scripts if attributes.get("type") == "application/x-rollouts"]
        return [row for chunk in chunks for row in json.loads(gzip.decompress(base64.b64decode(chunk)))]


def inspect(tmp_path: Path, *args: Path | str) -> Page:
    out = tmp_path / "page.html"
    assert main([*map(str, args), "--out", str(out)]) == 0
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_names_no_other_file_and_no_host(tmp_path: Path) -> None:
    page = inspect(tmp_path, small_run(tmp_path / "run"))
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith(MARK)
    assert [attributes.get("href") for tag, attributes in page.tags if tag == "link"] == ["data:,"]
    assert not [tag for tag, attributes in page.tags if "src" in attributes or tag in ("iframe", "object", "base")]
    assert set(re.findall(r"https?://[^\s\"'`)]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, never asked for
    assert not re.search(r"url\(|@import|\bimport\(|fetch\(|XMLHttpRequest|WebSocket|sendBeacon", text)


def test_the_policy_allows_this_script_and_style_alone(tmp_path: Path) -> None:
    page = inspect(tmp_path, small_run(tmp_path / "run"))
    policy = next(
        attributes["content"]
        for _, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_scripts_make_text_and_never_html() -> None:
    text = "".join((PACKAGE / name).read_text() for name in SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|srcdoc", text)
    assert sorted(path.name for path in PACKAGE.glob("*.js")) == sorted(SCRIPTS)


def test_the_data_comes_back_as_it_was(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run")
    page = inspect(tmp_path, run)
    index = page.index
    assert index["total"] == len(page.rollouts) == 9
    # Of each step: called wrong by both, called wrong by one of two, no verdict.
    assert index["columns"]["outcome"] == ["right", "wrong", "unknown"] * 3
    assert index["columns"]["wrong"] == [1, 1, 0] * 3
    assert index["columns"]["steps"] == [2, 2, None] * 3
    assert index["columns"]["disagreement"] == [0.0, 0.5, None] * 3
    assert index["columns"]["abstained"] == [0, 0, 2] * 3
    assert index["columns"]["peak"] == [-1.5, -1.5, 0.0] * 3  # the furthest from 0 of 0.5, 0.5, -1.5, 0.5
    assert index["columns"]["step"] == [0] * 3 + [1] * 3 + [2] * 3
    assert index["columns"]["group"] == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    assert [index["prompts"][number]["uid"] for number in index["columns"]["prompt"][:3]] == ["toy/0", "toy/0", "toy/1"]
    row = page.rollouts[1]
    for name, value in read_records(run / "records").slice(1, 1).to_pylist()[0].items():
        if name == "spans":
            value = [[span["start"], span["end"]] for span in value]
        if name == "outcome":
            value = "wrong"
        if name not in ("schema_version", "run", "row", "text"):
            assert row[name] == value, name
    assert "text" not in row  # the pieces tell it


def test_curves_are_those_of_the_charts_and_finite(tmp_path: Path) -> None:
    (run,) = inspect(tmp_path, small_run(tmp_path / "run")).index["runs"]
    assert run == {
        "name": "toy",
        "curves": {
            "val/avg_at_k": [[0, 2], [0.25, 0.5]],
            "reward/token_mean": [[1, 3], [0.5, 1.5]],  # nan at step 2 cannot be drawn
            "critique/judge_tokens": [[1, 2, 3], [120.0, 90.0, 60.0]],
        },
    }


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = inspect(tmp_path, hostile_run(tmp_path / "run"))
    # The page's own three scripts, and nothing that a parser finds in the data.
    assert [attributes.get("type") for attributes, _ in page.scripts] == [
        "application/json",
        "application/x-rollouts",
        None,
    ]
    assert not [tag for tag, _ in page.tags if tag in ("img", "svg")]
    (row,) = page.rollouts
    assert row["problem"] == row["critiques"][0]["reply"] == row["pieces"][0] == HOSTILE
    assert page.index["runs"][0]["name"] == HOSTILE
    script = next(text for attributes, text in page.scripts if not attributes)
    assert script.count("async function start()") == 1  # a field's name in the data is not filled in


@settings(deadline=None, max_examples=60)
@given(st.text() | st.sampled_from([HOSTILE, "</SCRIPT >", "<!--<script", "]]>", "\u2028"]))
def test_embedded_json_can_end_nothing_and_comes_back(text: str) -> None:
    made = embed({text: [text]})
    assert not set("<>&\u2028\u2029") & set(made)
    assert json.loads(made) == {text: [text]}


def test_numbers_that_are_not_finite_do_not_break_the_page(tmp_path: Path) -> None:
    row = solution(0, 0, 0, advantages=[float("nan"), 0.5, float("-inf"), 0.25], seconds=float("nan"))
    write_step(tmp_path / "run", 0, [row])
    page = inspect(tmp_path, tmp_path / "run")
    assert page.rollouts[0]["advantages"] == [None, 0.5, None, 0.25]
    assert page.rollouts[0]["seconds"] is None
    assert page.index["columns"]["peak"] == [0.5]


def test_what_nobody_judged_or_trained_on_is_shown_by_paragraphs(tmp_path: Path) -> None:
    names = ("spans", "step_error", "valid", "abstained", "agreement", "critiques", "step_of_token")
    names += ("token_rewards", "advantages", "trainer_logprobs", "policy_version")
    write_step(tmp_path, 0, [solution(0, 0, 0, **dict.fromkeys(names))])
    (row,) = details(read_records(tmp_path / "records"))
    assert row["spans"] == [(0, 7), (7, 11)]  # "1+1=2\n\n", "so 2"
    assert row["step_of_token"] == [0, 0, 1, -1]
    assert row["critiques"] is None
    line = summary(row)
    assert line["steps"] is line["disagreement"] is line["peak"] is None
    assert line["wrong"] == line["abstained"] == 0


def test_a_text_that_its_tokens_do_not_tell_is_kept(tmp_path: Path) -> None:
    write_step(tmp_path, 0, [solution(0, 0, 0, pieces=[], special=[], response_ids=[], step_of_token=[])])
    assert details(read_records(tmp_path / "records"))[0]["text"] == "1+1=2\n\nso 2"


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


def test_ten_thousand_rollouts_make_a_small_page(tmp_path: Path) -> None:
    page = inspect(tmp_path, long_run(tmp_path / "run", 10_000))
    assert len(page.rollouts) == page.index["total"] == 10_000
    assert (tmp_path / "page.html").stat().st_size < 3_000_000  # as plain JSON these details are over 9 MB
    assert len(json.dumps(page.rollouts)) > 9_000_000


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{tmp}/none"], "no files step-*.parquet; expected a run with records"),
        (["{tmp}/empty"], "no files step-*.parquet"),
        (["{tmp}/run", "--steps", "7:9"], "got steps 0 to 2; expected some of --steps"),
        (["{tmp}/run", "--limit", "0"], "got 0; expected at least 1. Change: --limit"),
        (["{tmp}/broken"], "a file that cannot be read"),
        (["{tmp}/half"], "a row that cannot be read"),
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
    write_step(tmp_path / "half", 0, [solution(0, 0, 0)])
    write_curves(tmp_path / "half")
    log = tmp_path / "half" / "csv" / "version_0" / "metrics.csv"
    log.write_text(log.read_text() + "0,0.5")  # killed while it wrote
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


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_what_is_behind_it_light_and_dark() -> None:
    light, dark = (PACKAGE / "style.css").read_text().split("@media (prefers-color-scheme: dark)")[:2]
    for css in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", css))
        pairs = [
            ("text", back) for back in ("page", "panel", "raised", "chosen", "right-back", "wrong-back", "none-back")
        ]
        pairs += [("muted", back) for back in ("page", "panel", "none-back", "chosen", "right-back")]
        pairs += [(kind, f"{kind}-back") for kind in ("right", "wrong")] + [("unknown", "none-back")]
        pairs += [(f"c{number}", "panel") for number in range(6)]
        for front, back in pairs:
            one, other = sorted((_luminance(colours[front]), _luminance(colours[back])))
            least = 3.0 if front.startswith("c") else 4.5  # lines, text
            assert (other + 0.05) / (one + 0.05) >= least, (front, back)


def test_the_page_s_files_are_in_the_package() -> None:
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["capo_lit"]
    packaged = {path for pattern in patterns for path in PACKAGE.parent.glob(pattern)}
    assert {PACKAGE / name for name in (*SCRIPTS, "page.html", "style.css")} <= packaged
