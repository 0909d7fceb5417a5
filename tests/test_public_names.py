"""The public names: complete, lazy, and good for a config."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import capo_lit

HEAVY = ("torch", "vllm", "lightning", "transformers", "pyarrow", "openai")


def in_a_fresh_interpreter(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_the_package_and_listing_its_names_imports_nothing_heavy():
    code = f"import sys, capo_lit; assert 'GenPRM' in dir(capo_lit); print([m for m in {HEAVY} if m in sys.modules])"
    assert in_a_fresh_interpreter(code) == "[]"


def test_a_name_of_pure_text_or_counts_loads_no_torch():
    code = "import sys; from capo_lit import parse_critique, split_steps, tally; print('torch' in sys.modules)"
    assert in_a_fresh_interpreter(code) == "False"


@pytest.mark.parametrize("name", capo_lit.__all__)
def test_every_public_name_is_the_object_of_its_home(name):
    home = import_module(capo_lit._HOMES[name])
    assert getattr(capo_lit, name) is getattr(home, name)
    assert getattr(home, name).__module__ == home.__name__  # where it is made, not where it passes through


def test_type_checkers_are_told_the_same_homes():
    tree = ast.parse(Path(capo_lit.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in block.body for alias in node.names}
    assert told == capo_lit._HOMES


def test_a_name_that_is_not_public_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Critic'"):
        capo_lit.Critic  # noqa: B018
