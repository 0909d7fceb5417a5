"""The command line: fast help, honest errors, and every shipped config parsed against the real code."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from capo_lit.cli.commands import main, split_words

REPO = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout


def test_importing_the_package_and_asking_for_help_import_nothing_heavy():
    heavy = "[m for m in ('torch', 'vllm', 'lightning', 'transformers', 'hydra') if m in sys.modules]"
    assert python(f"import sys, capo_lit, capo_lit.cli, capo_lit.cli.compose; print({heavy})") == "[]\n"
    hydra_alone = heavy.replace(", 'hydra'", "")
    assert (
        python(f"import sys, capo_lit.cli.sweep, capo_lit.records.report.sweep_table; print({hydra_alone})") == "[]\n"
    )
    shown = python(f"import sys; from capo_lit.cli import main; main(['--help']); print({heavy})")
    assert shown.startswith("usage: capo")
    assert shown.endswith("[]\n")


def test_help_answers_at_once():
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "capo_lit.cli", "--help"], check=True, capture_output=True, cwd=REPO)
    assert time.monotonic() - started < 2.5


def test_help_names_every_command(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict", "critique", "replay", "verify", "prepare", "quickstart"):
        assert f"\n  {command} " in shown
    assert main(["fti"]) == 2
    assert "unknown command 'fti'" in capsys.readouterr().err


def test_errors_of_ours_are_one_line_without_a_traceback(capsys, tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"gold": "1"}) + "\n")
    assert main(["verify", str(tmp_path / "rows.jsonl")]) == 1
    error = capsys.readouterr().err
    assert "rows.jsonl:1" in error
    assert "prediction" in error
    assert "Traceback" not in error


@pytest.fixture(scope="module")
def parser():
    from tests.support.config_parser import fit_parser

    return fit_parser()


QUICKSTART = ["--config", str(REPO / "configs" / "quickstart.yaml")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.credit.w_hole", "2"], "w_hole"),
        (["--model.optim.lr", "high"], "optim.lr.*float.*high"),
        (["--model.credit.estimator", "pooled"], "token_pooled"),
        (["--critique.judge.vote", "most"], "vote"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_wrong_keys_types_and_files_are_named_in_one_line(monkeypatch, parser, capsys, flags, message):
    monkeypatch.setattr("capo_lit.cli.trainer.build", lambda args: parser(args[1:]))
    assert main(["fit", *QUICKSTART, *flags]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(rf"capo: .*{message}.*\n", error)
    assert "usage" not in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainer: {max_stepz: 3}", "max_stepz"),
        ("trainer: {max_steps: many}", "trainer.max_steps.*many"),
        ("model: {init_args: {credit: {w_hole: 3}}}", "w_hole"),
        ("critique: {judge: {class_path: capo_lit.genprm.Nope}}", "critique.judge.*Nope"),
        ("seed_everything: abc", "seed_everything.*abc"),
        ("nonsense: 1", "nonsense"),
        ("a: [b", "did not find"),
    ],
)
def test_an_error_in_a_file_names_file_and_key(monkeypatch, parser, capsys, tmp_path, content, message):
    monkeypatch.setattr("capo_lit.cli.trainer.build", lambda args: parser(args[1:]))
    (tmp_path / "mine.yaml").write_text(content)
    assert main(["fit", *QUICKSTART, "--config", str(tmp_path / "mine.yaml")]) == 2
    assert re.fullmatch(rf"capo: .*mine\.yaml: .*{message}.*\n", capsys.readouterr().err)


def test_an_error_in_words_names_the_words(monkeypatch, parser, capsys):
    monkeypatch.setattr("capo_lit.cli.trainer.build", lambda args: parser(args[1:]))
    assert main(["fit", "experiment=capo", "model.init_args.optim.lr=high"]) == 2
    assert re.fullmatch(r"capo: .*optim\.lr=high: .*float.*high\n", capsys.readouterr().err)
    assert main(["fit", "experiment=capoo"]) == 1
    assert re.fullmatch(r"capo: .*experiment=capoo.*capo_majority.*\n", capsys.readouterr().err)


def test_words_end_at_the_first_flag():
    assert split_words(["experiment=capo", "seed=1", "--a", "b=2"]) == (["experiment=capo", "seed=1"], ["--a", "b=2"])
    assert split_words(["--config", "x.yaml", "seed=1"]) == ([], ["--config", "x.yaml", "seed=1"])
    assert split_words([]) == ([], [])


def test_a_policy_that_is_not_there_names_the_command_that_makes_it(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", *QUICKSTART]) == 1
    error = capsys.readouterr().err
    assert "runs/quickstart/sft/policy" in error
    assert "capo prepare quickstart" in error


def test_seed_and_policy_reach_every_place(parser):
    fit = parser([*QUICKSTART, "--policy", "some/dir", "--seed_everything", "7"])
    assert fit.rollout.engine.init_args.model == fit.model.init_args.policy == "some/dir"
    assert fit.rollout.seed == fit.model.init_args.seed == fit.data.init_args.seed == 7


def test_the_readme_and_architecture_name_files_that_exist():
    for document in ("README.md", "docs/architecture.md", "CONTRIBUTING.md"):
        text = (REPO / document).read_text()
        for path in re.findall(r"`((?:configs|capo_lit|tests|bench|docs|requirements)/[\w./-]+\.\w+)`", text):
            assert (REPO / path).exists(), f"{document} names {path}"
