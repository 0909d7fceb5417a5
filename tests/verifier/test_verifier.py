"""What counts as an answer, the exact comparison, and `capo verify`; nothing here starts a worker process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.cli.verify import main, verify_file
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.verifier.answer import ANSWER_CHARS, TAIL_CHARS, final_answer, gold_answer, is_oversized
from capo_lit.verifier.exact import compare_exact
from capo_lit.verifier.pool import Verifier

DATA = Path(os.environ.get("CAPO_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no evaluation data; set CAPO_SHARED_DATA")


@pytest.fixture
def verifier():
    """One that must never need a worker: every test asserts that through the counters or through speed."""
    with Verifier(timeout_s=1.0, workers=1) as made:
        yield made
        assert made._pool is None, "an exact comparison started worker processes"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"first \boxed{1}, no: \boxed{2}", "2"),
        (r"so \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),  # escaped braces are no brackets
        (r"\boxed {3}", "3"),
        (r"\boxed{x=\boxed{5}}", "5"),  # the last box that opens
        (r"\boxed{1} and then \boxed{2", None),  # truncated: no answer, also not the earlier one
        (r"\boxed{}", None),
        (r"\boxed", None),
        (r"answer is 4. \boxed{5", None),
        ("6*7=42\n#### 42\n", "42"),
        ("#### 1\n#### 2", "2"),
        ("cost is #### 1", None),  # not at the start of its line
        ("The final answer is $\\frac{3}{4}$, as claimed.", r"\frac{3}{4}"),
        ("The answer is: 12.50. Good.", "12.50"),
        ("**Answer: 7**", "7"),
        ("The answer is 42 apples.", "42"),
        ("42", "42"),
        ("x = 42", "x = 42"),
        ("I think 42", None),
        ("40 + 2\n42", None),  # two lines are no bare answer
        ("", None),
        ("   \n", None),
    ],
)
def test_final_answer(response, answer):
    assert final_answer(response) == answer


def test_a_long_line_is_no_bare_answer():
    assert final_answer("7" * 200) == "7" * 200
    assert final_answer("7" * 201) is None


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("25", "025", True),
        ("025", "25", True),
        ("1200", "1,200", True),
        ("1200", "1{,}200.00", True),
        ("-3", "\u22123", True),
        ("18", r"\$18", True),
        ("7", "7.", True),
        ("0.5", ".50", True),
        ("0.5", r"\frac{1}{2}", True),
        (r"\dfrac{2}{4}", "1/2", True),
        (r"-\frac{1}{2}", "-0.5", True),
        ("B", r"\text{(B)}", True),
        ("Yes", r"\text{yes}", True),
        ("$(1, 2)$", "(1,2)", True),
        (r"$\left(1,2\right)$", r"(1,\,2)", True),
        ("25", "26", False),
        ("25", "25.0000001", False),
        ("12", "", False),
        ("", "", False),
        ("12", "1 2", None),  # blanks between digits mean something
        ("100,200", "200,100", False),  # two numbers
        (r"\frac{1}{3}", "0.333", False),
        (r"\frac{1}{0}", "1/0", None),
        ("2n", "n+n", None),
        ("x", "y", None),
        ("a", "A", False),
    ],
)
def test_compare_exact(gold, answer, expected):
    assert compare_exact(gold, answer) is expected


@given(st.integers(-(10**12), 10**12), st.integers(0, 3), st.integers(0, 3))
def test_every_spelling_of_an_integer_is_equal(value, zeros, decimals):
    sign, digits = ("-" if value < 0 else ""), str(abs(value))
    spelled = sign + "0" * zeros + digits + ("." + "0" * decimals if decimals else "")
    assert compare_exact(str(value), spelled) is True
    assert compare_exact(str(value), f"{value:,}") is True
    assert compare_exact(str(value + 1), spelled) is False


@given(st.text(max_size=200), st.text(max_size=50))
def test_any_text_is_survived(text, gold):
    found = final_answer(text)
    assert found is None or found
    assert compare_exact(gold, text) in (True, False, None)


@given(st.text("ab12+-=,()/ \u00e9\u4e00", min_size=1, max_size=30).filter(lambda gold: gold.strip()))
def test_a_boxed_copy_is_right(gold):
    assert compare_exact(gold, final_answer("so \\boxed{" + gold + "}")) is True


def test_gold_answer_unwraps_full_solutions():
    assert gold_answer("1+1=2\n#### 2") == "2"
    assert gold_answer(r"thus \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert gold_answer(" 7 ") == "7"


def test_oversized_answers_are_wrong_at_once(verifier):
    assert is_oversized("1" * (ANSWER_CHARS + 1))
    assert is_oversized("{" * 51 + "}" * 51)
    assert not is_oversized("{}" * 400)
    hostile = ["\\boxed{" + "x" * 5000 + "}", "\\boxed{" + "{" * 500 + "1" + "}" * 500 + "}"]
    assert verifier.score([("5", text) for text in hostile]) == [0.0, 0.0]
    assert verifier.counters["oversized"] == 2


def test_only_the_tail_is_examined(verifier):
    box = "\\boxed{5}"
    inside = box + "x" * (TAIL_CHARS - len(box))
    assert verifier.score([("5", inside), ("5", inside + "x")]) == [1.0, 0.0]


def test_score_keeps_the_order_and_counts(verifier):
    pairs = [("4", r"\boxed{4}"), ("4", r"\boxed{5}"), ("4", "no idea"), ("4", "4")]
    assert verifier.score(pairs) == [1.0, 0.0, 0.0, 1.0]
    assert dict(verifier.counters) == {"exact": 3, "no_answer": 1}
    assert verifier.submit("4", r"\boxed{4}").done()
    assert verifier.score([]) == []


@pytest.mark.parametrize("setting", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"workers": 0}])
def test_settings_are_checked(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Verifier(**setting)


def test_the_verifier_imports_nothing_heavy():
    code = (
        "import sys, capo_lit.verifier; print([m for m in ('torch', 'lightning', 'math_verify') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert out.stdout.strip() == "[]"


def _rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


@needs_data
def test_gsm8k_finals_are_exact(verifier):
    rows = _rows("gsm8k/test_half.jsonl")
    right = verifier.score([(row["final"], f"so \\boxed{{{row['final']}}}.") for row in rows])
    hashes = verifier.score([(row["final"], row["answer"]) for row in rows])
    # One more than the right number is wrong, also when the right one stands elsewhere in the text.
    wrong = verifier.score([(row["final"], f"{row['final']} \\boxed{{{row['final']}1}}") for row in rows])
    assert right == hashes == [1.0] * len(rows)
    assert wrong == [0.0] * len(rows)


@needs_data
@pytest.mark.parametrize("name", ["olympiadbench/test_half.jsonl", "amc23/test.jsonl", "aime24/test.jsonl"])
def test_gold_answers_equal_themselves(verifier, name):
    golds = [row["answer"] for row in _rows(name)]
    assert verifier.score([(gold, f"\\boxed{{{gold}}}") for gold in golds]) == [1.0] * len(golds)


@needs_data
def test_aime_leading_zeros(verifier):
    golds = [row["answer"] for row in _rows("aime24/test.jsonl")]
    assert any(gold.startswith("0") for gold in golds)
    assert verifier.score([(gold, f"\\boxed{{{int(gold)}}}") for gold in golds]) == [1.0] * len(golds)
    assert verifier.score([(gold, f"\\boxed{{{int(gold) + 1}}}") for gold in golds]) == [0.0] * len(golds)


def _write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_verify_cli_writes_every_field_and_the_outcome(tmp_path, capsys):
    path = _write(
        tmp_path / "in.jsonl",
        '{"gold": "4", "prediction": "4", "id": "é"}',
        "",
        '{"gold": 4, "prediction": "so \\\\boxed{5}"}',
    )
    assert main([str(path)]) == 0
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == [
        {"gold": "4", "prediction": "4", "id": "é", "outcome": 1.0},
        {"gold": 4, "prediction": "so \\boxed{5}", "outcome": 0.0},
    ]
    assert "2 rows: right 1 (50.0%), wrong 1 (50.0%), unknown 0 (0.0%)" in captured.err
    out = tmp_path / "out.jsonl"
    assert main([str(path), "--output", str(out)]) == 0
    assert [json.loads(line)["outcome"] for line in out.read_text().splitlines()] == [1.0, 0.0]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"gold": "4"}', "no field"),
        ('{"gold": "4", "prediction": null}', "NoneType"),
        ('{"gold": " ", "prediction": "4"}', "empty field 'gold'"),
        ('{"gold": "4", ', "invalid JSON"),
        ("[1, 2]", "JSON list"),
    ],
)
def test_verify_cli_names_file_line_and_field(tmp_path, capsys, line, message):
    path = _write(tmp_path / "in.jsonl", '{"gold": "4", "prediction": "4"}', line)
    out = tmp_path / "out.jsonl"
    assert main([str(path), "--output", str(out)]) == 1
    err = capsys.readouterr().err
    assert f"{path}:2" in err
    if message == "no field":
        assert "'prediction'" in err
    else:
        assert message in err
    assert list(tmp_path.iterdir()) == [path], "a failed run leaves a file behind"


def test_verify_file_fails_on_a_missing_file(verifier, tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl"):
        list(verify_file(tmp_path / "none.jsonl", verifier))
