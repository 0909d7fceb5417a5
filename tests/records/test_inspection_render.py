"""Rendering: the colours say what the record says, and nothing that a model wrote is markup."""

import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from capo_lit.records.inspect import STYLE, Rollouts, ShownRecord, pair_html, rollout_html, steps_html
from capo_lit.records.schema import SCHEMA
from capo_lit.records.table import batch_table
from tests.support.finished_batch import make_batch

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)>" onmouseover="alert(3)\' [red]x[/red] \x1b[31m'
TEXTS = ("run", "uid", "problem", "answer", "finish_reason")


class Tags(HTMLParser):
    """Collects tags and attributes as a browser sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def parsed(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    return tags


@pytest.fixture
def row() -> dict:
    """A judged and trained rollout: its step 1 is wrong, one critique abstained."""
    return batch_table(make_batch(), "toy").to_pylist()[0]


def hostile(row: dict) -> ShownRecord:
    """Every text a model, a data set or a server could have written is an attack."""
    size = len(HOSTILE)
    row |= dict.fromkeys(TEXTS, HOSTILE)
    row |= {"text": HOSTILE * 2, "pieces": [HOSTILE, HOSTILE, ""]}
    row["spans"] = [{"start": 0, "end": size}, {"start": size, "end": 2 * size}]
    for critique in row["critiques"]:
        critique |= {"reply": HOSTILE, "cause": HOSTILE if critique["wrong"] is None else ""}
    return ShownRecord(row)


def test_no_text_of_a_model_becomes_markup(row: dict) -> None:
    clean = parsed(ShownRecord(row)._repr_html_() + pair_html(ShownRecord(row), ShownRecord(row)))
    record = hostile(row)
    attacked = parsed(record._repr_html_() + pair_html(record, record))
    assert set(attacked.tags) == set(clean.tags)
    assert "script" not in attacked.tags
    assert attacked.attributes == clean.attributes == {"class", "style", "title"}
    assert "<script>alert(1)</script>" in attacked.text, "it is shown, as text"
    table = pa.Table.from_pylist([record.row], schema=SCHEMA)
    overview = parsed(Rollouts(table, (0,))._repr_html_())
    assert "script" not in overview.tags
    assert "<script>alert(1)" in overview.text


def test_a_fragment_loads_nothing() -> None:
    assert not re.search(
        r"url\(|@import|https?:|src=", STYLE + rollout_html(ShownRecord(batch_table(make_batch(), "t").to_pylist()[0]))
    )


def test_steps_are_coloured_by_verdict_and_tokens_by_advantage(row: dict) -> None:
    first, second = re.findall(r'<div class="capo-step capo-(\w+)">', steps_html(ShownRecord(row)))
    assert (first, second) == ("right", "wrong")
    colours = re.findall(r"<span class=\"capo-token[^>]*rgba\((\d+),\d+,\d+,([\d.]+)\)", steps_html(ShownRecord(row)))
    # Advantages 0.5, -1.0, 0.5 of at most 1.0: blue, orange at full strength, blue. 0.08 + 0.55 / 2 = 0.355.
    assert [(red, float(alpha)) for red, alpha in colours] == [("0", 0.36), ("213", 0.63), ("0", 0.36)]
    row["step_error"] = [0.0, 0.25]
    assert 'capo-step capo-split"><span>step 1 · error 0.25' in steps_html(ShownRecord(row))
    halved = re.findall(r"rgba\(213,94,0,([\d.]+)\)", steps_html(ShownRecord(row), scale=2.0))
    assert halved[0] == "0.36"  # the other is the key


def test_critiques_stand_side_by_side_and_votes_in_a_matrix(row: dict) -> None:
    html = rollout_html(ShownRecord(row))
    assert html.count('<div class="capo-reply">') == 2
    assert "wrong: 1" in html
    assert "abstained: parse" in html
    cells = re.findall(r'<td class="capo-\w+" title="([\w ]+)">', html)
    assert cells == ["right", "abstained", "wrong", "abstained"]


def test_without_a_judge_there_are_no_votes_and_without_training_no_colours(row: dict) -> None:
    unjudged = ShownRecord(batch_table(make_batch(verdicts=False), "toy").to_pylist()[0])
    html = rollout_html(unjudged)
    assert "not judged" in html
    assert "Votes" not in html
    for name in ("token_rewards", "advantages", "trainer_logprobs", "step_of_token"):
        row[name] = None
    assert "rgba" not in rollout_html(ShownRecord(row))


def test_an_empty_solution_is_rendered(row: dict) -> None:
    row |= {"text": "", "pieces": [], "special": [], "response_ids": [], "spans": [], "step_error": [], "critiques": []}
    row |= {"advantages": [], "token_rewards": [], "engine_logprobs": [], "trainer_logprobs": []}
    assert "0 of 0 steps called wrong" in rollout_html(ShownRecord(row))
    assert str(ShownRecord(row))


def test_a_terminal_gets_plain_lines_and_no_control_characters(row: dict) -> None:
    words = str(ShownRecord(row))
    for part in ("toy, step 12", "right answer", "1+1?", "1 wrong: b", "critique 0: step 1 is wrong", "critique 1: ??"):
        assert part in words, part
    attacked = str(hostile(row))
    assert "\x1b" not in attacked
    assert "\ufffd[31m" in attacked, "the escape character of the text is replaced"


def test_what_a_model_said_of_the_answer_is_shown(row: dict) -> None:
    shared = {"cause": "", "prompt_tokens": 4, "completion_tokens": 2, "seconds": 0.5}
    row["outcome_critiques"] = [{"reply": "no", "wrong": [0], **shared}, {"reply": "yes", "wrong": [], **shared}]
    html = rollout_html(ShownRecord(row))
    assert "Critiques of the answer" in html
    assert re.findall(r'capo-chip capo-(\w+)">([\w ]+)</span> <small>', html)[-2:] == [
        ("bad", "wrong answer"),
        ("good", "nothing wrong"),
    ]
