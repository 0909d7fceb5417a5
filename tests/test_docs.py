"""Every command in the documents is one that the real code takes, and something runs it, or it needs a GPU."""

import argparse
import importlib
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob

from capo_lit.cli.commands import _TOOLS, split_words
from capo_lit.cli.compose import CONFIGS, compose
from tests.support.doc_blocks import PAGES, REPO, Command, blocks, commands, inline_commands
from tests.test_layers import LAYERS

pytestmark = pytest.mark.slow  # a third of a second for each command, some 140 of them

COMMANDS = [command for page in PAGES for command in commands(page)]
TRAINER = ("fit", "validate", "test", "predict")
# Of others: not ours to parse.
FOREIGN = re.compile(r"vllm serve \S+( --.*)?|pip install hydra-\S+|\.venv/bin/pre-commit install")
# What runs each kind of command: a test, or a line of CI.
EXECUTED = {
    "capo fit": "tests/integration/test_cli_runs.py::test_a_run_logs_the_defined_metrics_to_csv_and_tensorboard",
    "capo validate": "tests/integration/test_cli_runs.py::test_validate_test_and_predict_on_a_checkpoint",
    "capo test": "tests/integration/test_cli_runs.py::test_validate_test_and_predict_on_a_checkpoint",
    "capo predict": "tests/integration/test_cli_runs.py::test_validate_test_and_predict_on_a_checkpoint",
    "capo critique": "tests/integration/test_capo_critique.py::test_a_real_model_in_vllm",
    "capo verify": "tests/verifier/test_verifier.py::test_verify_cli_writes_every_field_and_the_outcome",
    "capo replay": "tests/records/test_replay.py::test_the_command",
    "capo report": "tests/cli/test_report_command.py::test_the_page_of_a_sweep",
    "capo plan": "tests/cli/test_plan.py::test_a_policy_that_fits_is_planned_in_parts",
    "make gpu-check": "tests/integration/test_make.py::test_the_gpu_check_is_whole",
    "capo inspect": "tests/integration/test_viewer_browser.py::test_served_it_is_the_same_and_ctrl_c_ends_it",
    "capo prepare smollm2": "tests/cli/test_smollm2_prepare.py::test_command_writes_the_path_or_the_reason",
    "capo-sweep": "tests/integration/test_sweep.py::test_the_table_says_why_a_job_failed_and_the_other_went_on",
    "make docs": "tests/integration/test_docs_site.py::test_the_site_builds_without_warnings_and_without_network",
    "make setup": ".ci/run",
    "make lint": ".ci/run",
    "make types": ".ci/run",
    "make test": ".ci/run",
    "make check": "tests/integration/test_make.py::test_check_is_what_ci_runs",
    "make test-fast": "tests/integration/test_make.py::test_the_fast_tests_are_most_tests_and_no_slow_one",
    "make nightly": "tests/integration/test_make.py::test_the_night_runs_documents_and_plants_faults",
    "make demo": "tests/integration/test_make.py::test_the_demo_goes_from_random_weights_to_its_table",
    "capo prepare quickstart": "tests/integration/test_docs_run.py::test_getting_started_runs_from_top_to_bottom",
}


def kind(words: tuple[str, ...]) -> str:
    """A command without its arguments."""
    if words[0] in ("capo", "make"):
        return " ".join(words[: 3 if words[1:2] == ("prepare",) else 2])
    return words[0]


class ParsedError(Exception):
    """A parser has taken the arguments."""


@cache
def trainer_parser() -> Any:
    from capo_lit.cli.trainer import build
    from tests.support.config_parser import ParseOnly

    return build(["fit", "--config", str(CONFIGS / "quickstart.yaml")], cli=ParseOnly).parser


@cache
def take(words: tuple[str, ...], *before: str, flags: tuple[str, ...] = ()) -> None:
    """Compose words and parse them; pages repeat many, and one time is enough."""
    config = ("--config", json.dumps(compose(words))) if words else ()
    trainer_parser().parse_args([*before, *config, *flags])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder like a clone, with the files that the page of a command shows."""
    command: Command = request.getfixturevalue("command")
    (tmp_path / "configs").symlink_to(CONFIGS)
    for block in blocks(REPO / command.page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def parse_training(command: str, args: list[str]) -> None:
    words, flags = split_words(args)
    if flags == ["--help"]:
        return
    if not words and "--config" not in flags:
        flags = ["--config", str(CONFIGS / "quickstart.yaml"), "--policy", "DIR", *flags]
    # The files of a command are those of its page.
    parser = take.__wrapped__ if "--config" in flags else take
    parser(tuple(words), command, flags=tuple(flags))


def parse_sweep(args: list[str]) -> None:
    """Parse every job of a sweep, each with another choice of what it sweeps over."""
    assert args[0] == "-m"
    words = [word for word in args[1:] if not re.match(r"hydra[./]\w", word)]
    choices = []
    for override in OverridesParser.create().parse_overrides(words):
        value, key = override.value(), override.get_key_element()
        if isinstance(value, Glob):
            values = value.filter([path.stem for path in (CONFIGS / key).glob("*.yaml")])
        elif override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
        elif override.is_sweep_override():
            values = [value.start, value.end]
        else:
            choices.append([override.input_line])
            continue
        assert values, f"{override.input_line} sweeps over nothing"
        choices.append([f"{key}={one}" for one in values])
    for job in range(max(map(len, choices))):
        take(tuple(values[job % len(values)] for values in choices), "fit")


def parse_tool(main: Any, args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program's own parser take the arguments, and stop it there."""
    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        original = parser.parse_args

        def stop(self: Any, *given: Any, original: Any = original, **named: Any) -> None:
            original(self, *given, **named)
            raise ParsedError

        monkeypatch.setattr(parser, "parse_args", stop)
    with pytest.raises(ParsedError):
        main(args)


def parse(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a command to the code that would take it; whatever it does not take is an error."""
    program, *args = words
    if program == "capo" and args[0] in TRAINER:
        parse_training(args[0], args[1:])
    elif program == "capo" and args[0] == "plan":  # its own options, and the words of a fit
        own = [place for place, word in enumerate(args) if word in ("--gpu_gib", "--split")]
        skipped = {0, *own, *(place + 1 for place in own)}
        parse_training("fit", [word for place, word in enumerate(args) if place not in skipped])
    elif program in ("srun", "torchrun"):  # they start what follows
        start = args.index("capo") if "capo" in args else args.index("capo_lit.cli")
        parse(("capo", *args[start + 1 :]), monkeypatch)
    elif program == "capo":
        parse_tool(importlib.import_module(_TOOLS[args[0]]).main, args[1:], monkeypatch)
    elif program == "capo-sweep":
        parse_sweep(args)
    elif program == "make":
        assert re.search(rf"^{args[0]}:", (REPO / "Makefile").read_text(), re.MULTILINE)
    elif program in ("python", ".venv/bin/python"):
        script = importlib.import_module(args[0].removesuffix(".py").replace("/", "."))
        monkeypatch.setattr(sys, "argv", args)
        parse_tool(lambda _: script.main(), [], monkeypatch)
    else:
        assert FOREIGN.fullmatch(" ".join(words)), f"no parser for {' '.join(words)}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.where)
def test_the_code_takes_every_command(command: Command, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse(command.words, monkeypatch)


@pytest.mark.parametrize(
    "words",
    [
        ("capo", "fit", "experiment=capo_best"),
        ("capo", "fit", "experiment=capo", "--trainer.max_stepps", "3"),
        ("capo", "critic", "x.jsonl"),
        ("capo", "replay", "records", "--votes", "union"),
        ("capo", "critique", "x.jsonl", "--judge.kk", "3"),
        ("capo-sweep", "-m", "experiment=capo,capo_best"),
        ("make", "deemo"),
        ("rm", "-r", "runs"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_would_be_noticed(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((Exception, SystemExit)):
        parse(words, monkeypatch)


def test_every_command_is_run_by_something_or_needs_a_gpu() -> None:
    kinds = {kind(command.words) for command in COMMANDS if not command.needs_gpu}
    ours = {one for one in kinds if one.split()[0] in ("capo", "capo-sweep", "make") or "bench" in one}
    assert ours <= EXECUTED.keys()
    assert len(COMMANDS) > 50, "the pages are read"
    for command, by in EXECUTED.items():
        file, _, test = by.partition("::")
        text = (REPO / file).read_text()
        assert f"def {test}(" in text if test else re.search(rf"\b{command.split()[-1]}\b", text), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_commands_in_running_text_exist(page: Path) -> None:
    for code in inline_commands(page):
        program, *args = code.split()
        if program == "capo":
            assert args[0] in (*TRAINER, *_TOOLS), code
        elif program == "make":
            assert re.search(rf"^{args[0]}:", (REPO / "Makefile").read_text(), re.MULTILINE), code
        elif program == "python":
            file = f"{args[1].replace('.', '/')}.py" if args[0] == "-m" else args[0]
            assert (REPO / file).is_file(), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_files_that_pages_show_are_well_formed(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)
        elif block.language == "json":
            assert all(isinstance(json.loads(line), dict) for line in block.text.splitlines())
        elif block.language == "python":
            compile(block.text, f"{block.page}:{block.line}", "exec")


def test_every_experiment_is_on_the_papers_page() -> None:
    page = (REPO / "docs" / "paper-configs.md").read_text()
    for number in ("_n4", "_n8"):  # short for the name before it
        page = page.replace(f"`{number}`", f"`grpo_genorm{number}`")
    named = set(re.findall(r"`(\w[\w.]*)`", page))
    assert {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")} <= named


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    text = (REPO / "README.md").read_text()
    assert len(text.splitlines()) < 150
    links = re.findall(r"\]\(((?!http)[^)#]+)", text)
    assert len(links) > 5
    assert {link for link in links if not (REPO / link).exists()} <= {"docs/metrics.md"}  # generated


def test_the_readme_has_one_row_for_every_room() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (REPO / "README.md").read_text(), re.MULTILINE)
    assert rows == ["capo_lit", *(room for rooms in LAYERS for room in rooms)]


def test_the_map_shows_every_room_on_its_floor() -> None:
    text = (REPO / "docs" / "architecture.md").read_text()
    floors = [
        (str(floor), room) for floor, rooms in zip(range(len(LAYERS), 0, -1), LAYERS, strict=True) for room in rooms
    ]
    assert re.findall(r"^\| (\d+) \| `(\w+)` \|", text, re.MULTILINE) == floors


def test_the_reference_has_a_page_for_every_room_and_names_what_exists() -> None:
    for room in sorted(room for rooms in LAYERS for room in rooms if room != "cli"):  # commands have their --help
        page = (REPO / "docs" / "reference" / f"{room}.md").read_text()
        named = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
        assert named
        assert {name.split(".")[1] for name in named} == {room}
        for name in named:
            files = [REPO.joinpath(*parts).with_suffix(".py") for parts in (name.split("."), name.split(".")[:-1])]
            assert any(file.is_file() for file in files), name
