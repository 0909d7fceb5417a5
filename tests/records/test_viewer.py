"""The page of capo inspect: what it holds, that it holds it safely, and that it can be read."""

import json
import re
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

import capo_lit.records.viewer
from capo_lit.records.schema import read_records
from capo_lit.records.viewer.page import MARK, SCRIPTS, embed
from capo_lit.records.viewer.rows import details, summary
from tests.support.viewer_page import inspect
from tests.support.viewer_world import HOSTILE, hostile_run, small_run, solution, write_step

PACKAGE = Path(capo_lit.records.viewer.__file__).parent


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


def test_what_a_model_said_of_the_answer_is_in_the_page(tmp_path: Path) -> None:
    said = [{"reply": "it is", "wrong": [], "cause": "", "seconds": 0.5}]
    write_step(tmp_path / "run", 0, [solution(0, 0, 0, outcome_critiques=said)])
    (row,) = inspect(tmp_path, tmp_path / "run").rollouts
    assert [one["reply"] for one in row["outcome_critiques"]] == ["it is"]
    shown = "".join((PACKAGE / name).read_text() for name in SCRIPTS)
    assert shown.count("outcome_critiques") == 2  # read by the search, and drawn


def test_curves_are_those_of_the_charts_and_finite(tmp_path: Path) -> None:
    (run,) = inspect(tmp_path, small_run(tmp_path / "run")).index["runs"]
    assert run == {
        "name": "toy",
        "curves": {
            "val/avg_at_k": [[0, 2], [0.25, 0.5]],
            "reward/token_mean": [[1, 3], [0.5, 1.5]],  # nan at step 2 cannot be drawn
            "critique/judge_completion_tokens": [[1, 2, 3], [120.0, 90.0, 60.0]],
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


def test_a_prediction_is_shown_by_the_steps_that_its_rollout_was_cut_into(tmp_path: Path) -> None:
    names = ("step_error", "valid", "abstained", "agreement", "critiques", "step_of_token", "token_rewards")
    spans = [{"start": 0, "end": 1}, {"start": 1, "end": 11}]
    write_step(tmp_path, 0, [solution(0, 0, 0, spans=spans, **dict.fromkeys(names))])
    (row,) = details(read_records(tmp_path / "records"))
    assert row["spans"] == [(0, 1), (1, 11)]
    assert row["step_of_token"] == [0, 1, 1, -1]


def test_a_text_that_its_tokens_do_not_tell_is_kept(tmp_path: Path) -> None:
    write_step(tmp_path, 0, [solution(0, 0, 0, pieces=[], special=[], response_ids=[], step_of_token=[])])
    assert details(read_records(tmp_path / "records"))[0]["text"] == "1+1=2\n\nso 2"


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
    project = tomllib.loads((PACKAGE.parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["capo_lit"]
    packaged = {path for pattern in patterns for path in PACKAGE.parents[1].glob(pattern)}
    assert {PACKAGE / name for name in (*SCRIPTS, "page.html", "style.css")} <= packaged
