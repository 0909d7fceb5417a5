"""The command line: fast help, honest errors, and every shipped config parsed against the real code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from capo_lit.cli import main
from capo_lit.metrics import markdown_table

REPO = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path for path in (REPO / "configs").glob("*.yaml"))
OVERLAYS = sorted((REPO / "configs" / "algorithm").glob("*.yaml"))


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout


def test_importing_the_package_and_asking_for_help_import_nothing_heavy():
    heavy = "[m for m in ('torch', 'vllm', 'lightning', 'transformers', 'hydra') if m in sys.modules]"
    assert python(f"import sys, capo_lit; print({heavy})") == "[]\n"
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
    from capo_lit.lightning_cli import CapoCLI, build

    class ParseOnly(CapoCLI):
        """Parses, and builds nothing."""

        def instantiate_classes(self):
            self.trainer = None

        def _run_subcommand(self, subcommand):
            pass

    return lambda args: build(args, cli=ParseOnly, parser_kwargs={"exit_on_error": False}).config.fit


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_every_config_parses_alone(parser, config):
    fit = parser(["fit", "--config", str(config)])
    assert (
        fit.model.init_args.policy == fit.data.init_args.tokenizer == fit.rollout.engine.init_args.model == fit.policy
    )
    assert fit.model.init_args.seed == fit.data.init_args.seed == fit.rollout.seed == fit.critique.seed == 0


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_algorithm_lies_over_every_rl_config(parser, overlay):
    for config in CONFIGS:
        if yaml.safe_load(config.read_text())["model"]["class_path"] != "capo_lit.module.CapoModule":
            continue
        fit = parser(["fit", "--config", str(config), "--config", str(overlay)])
        assert fit.model.init_args.credit.w_process == 0
        assert fit.model.init_args.credit.estimator == "sequence"
        assert fit.critique.judge is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.credit.w_hole", "2"], "w_hole"),
        (["--model.optim.lr", "high"], "lr"),
        (["--model.credit.estimator", "pooled"], "token_pooled"),
        (["--critique.judge.vote", "most"], "vote"),
        (["--trainer.max_stepz", "3"], "max_stepz"),
        (["--config", "no/such.yaml"], "no/such.yaml"),
    ],
)
def test_wrong_keys_types_and_files_are_named(parser, flags, message):
    config = str(REPO / "configs" / "quickstart.yaml")
    with pytest.raises(Exception, match=message):
        parser(["fit", "--config", config, *flags])


def test_seed_and_policy_reach_every_place(parser):
    fit = parser(["fit", "--config", str(CONFIGS[0]), "--policy", "some/dir", "--seed_everything", "7"])
    assert fit.rollout.engine.init_args.model == fit.model.init_args.policy == "some/dir"
    assert fit.rollout.seed == fit.model.init_args.seed == fit.data.init_args.seed == 7


def test_the_readmes_metric_table_is_the_code_s():
    readme = (REPO / "README.md").read_text()
    shown = readme.split("capo_lit/metrics.py -->\n")[1].split("<!-- end of metrics -->")[0]
    assert shown.strip() == markdown_table().strip()
    assert len(readme.splitlines()) <= 200


def test_the_readme_and_architecture_name_files_that_exist():
    import re

    for document in ("README.md", "docs/architecture.md", "CONTRIBUTING.md"):
        text = (REPO / document).read_text()
        for path in re.findall(r"`((?:configs|capo_lit|tests|bench|docs|requirements)/[\w./-]+\.\w+)`", text):
            assert (REPO / path).exists(), f"{document} names {path}"
