"""docs/parity.md names tests that exist, and every test of a difference is in it."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "parity.md").read_text(encoding="utf-8")


def defined(*files):
    """Names of the test functions in those files."""
    return {name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)}


def test_the_page_and_the_tests_name_each_other():
    everywhere = defined(*HERE.parent.rglob("test_*.py")) | {path.stem for path in HERE.glob("test_*.py")}
    named = set(re.findall(r"\btest_\w+", PAGE))
    assert named <= everywhere
    assert defined(HERE / "test_trl_differences.py") <= named
