"""Every shipped config against the real parser, through both doors: `capo fit --config` and Hydra's words."""

import json
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from capo_lit.cli.compose import CONFIGS, compose
from capo_lit.core.errors import ConfigError
from capo_lit.genprm.base import StepJudge
from capo_lit.verifier.outcomes import OutcomeSource
from tests.support.config_parser import fit_parser, flat

REPO = Path(__file__).resolve().parents[2]
parser = cache(fit_parser)
BASE = ["--config", str(CONFIGS / "quickstart.yaml")]
WHOLE = sorted(path for path in CONFIGS.glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
# One of each kind in every run of the tests, the others at night: half a second each.
BY_DAY = ("sft", "ppo", "grpo_rule", "grpo_genorm_n4", "prm_discriminative", "capo", "capo_decoupled")
MOST_AT_NIGHT = [
    pytest.param(name, marks=[] if name in BY_DAY else pytest.mark.nightly, id=name) for name in EXPERIMENTS
]
# configs/judge is for `capo critique`; its tests are elsewhere.
LEAVES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name not in ("experiment", "judge"))
ONE_OF_EACH_FOLDER = {path.parent: path for path in reversed(LEAVES)}.values()
LEAVES_MOST_AT_NIGHT = [
    pytest.param(path, marks=[] if path in ONE_OF_EACH_FOLDER else pytest.mark.nightly) for path in LEAVES
]
OF_A_LANGUAGE_MODEL = {"greedy_paper.yaml": "genprm/qwen2.5_72b.yaml"}
LLMS = sorted(path.stem for path in (CONFIGS / "llm").glob("*.yaml"))
JUDGES = sorted(path.stem for path in (CONFIGS / "genorm").glob("*.yaml") if path.stem != "noisy")


def overlays(*names: str) -> list[str]:
    return [word for name in names for word in ("--config", str(CONFIGS / name))]


def paper(experiment: str) -> list[str]:
    """The words that run an experiment at the paper's scale; models take turns, so that each is parsed."""
    turn = EXPERIMENTS.index(experiment)
    judge = JUDGES[turn % len(JUDGES)]
    words = ["scale=paper_sft" if experiment == "sft" else "scale=paper", f"llm={LLMS[turn % len(LLMS)]}"]
    words += [f"hardware=gpu{(1, 8)[turn % 2]}"]
    words += [f"genorm={judge}"] if "genorm" in experiment else []
    return [*words, f"genprm={judge}"]


@cache
def composed(*words: str) -> str:
    """A config as JSON, composed once: that is what takes time here."""
    return json.dumps(compose(words))


def parse_words(*words: str):
    return parser()(["--config", composed(*words)])


@pytest.mark.slow
@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_every_whole_config_parses_and_links_policy_and_seed(path):
    fit = parser()(["--config", str(path)])
    assert fit.model.init_args.policy == fit.data.init_args.tokenizer == fit.policy
    assert fit.rollout.engine.init_args.model == fit.policy
    assert fit.model.init_args.seed == fit.data.init_args.seed == fit.rollout.seed == fit.critique.seed == 0


@pytest.mark.slow
@pytest.mark.parametrize("path", LEAVES_MOST_AT_NIGHT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_of_a_group_lies_over_a_config(path):
    """The same file is a group's choice for Hydra, which needs the header, and has no `defaults` of its own."""
    assert path.read_text().startswith("# @package _global_\n#"), "the header, then what it is"
    content = yaml.safe_load(path.read_text())
    assert "defaults" not in content
    below = overlays(*([OF_A_LANGUAGE_MODEL[path.name]] if path.name in OF_A_LANGUAGE_MODEL else []))
    fit = flat(parser()([*BASE, *below, "--config", str(path)]))
    for key, value in flat(content).items():
        if not isinstance(value, list | dict) and value is not None:
            assert fit[key] == value, key


@pytest.mark.slow  # half a second each
@pytest.mark.parametrize("name", MOST_AT_NIGHT)
def test_every_experiment_is_the_same_through_both_doors(name, tmp_path):
    """`capo fit --config FILE`, `capo fit experiment=NAME` and the config.yaml of a sweep's job."""
    by_file = flat(parser()(["--config", str(CONFIGS / "experiment" / f"{name}.yaml")]))
    job = tmp_path / "config.yaml"
    job.write_text(yaml.safe_dump(json.loads(composed(f"experiment={name}"))))
    assert flat(parser()(["--config", str(job)])) == by_file
    assert by_file[".trainer.default_root_dir"] == f"runs/{name}"
    assert by_file[".trainer.accelerator"] == "cpu"


@pytest.mark.slow  # half a second each
@pytest.mark.parametrize("name", MOST_AT_NIGHT)
def test_every_experiment_parses_at_the_papers_scale(name):
    small, large = parse_words(f"experiment={name}"), parse_words(f"experiment={name}", *paper(name))
    assert large.model.class_path == small.model.class_path
    assert large.model.init_args.get("credit") == small.model.init_args.get("credit")
    assert large.trainer.accelerator == "gpu"
    assert "Arithmetic" not in json.dumps(flat(large), default=str), "nothing of the small task is left"
    if name != "sft":
        assert large.rollout.group_size == 16
    for key in ("k", "vote", "reference"):  # what the experiment varies is not the scale's business
        if name.startswith("capo"):
            assert large.critique.judge.init_args.get(key) == small.critique.judge.init_args.get(key, False)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("scale", ["small", "paper"])
def test_the_judge_of_every_experiment_can_be_built(name, scale):
    """Settings that parse one by one and contradict each other are found only here: k, vote and temperature."""
    config = json.loads(composed(f"experiment={name}", *(paper(name) if scale == "paper" else [])))
    parts = ArgumentParser(exit_on_error=False)
    parts.add_subclass_arguments(StepJudge, "judge", required=False)
    parts.add_subclass_arguments(OutcomeSource, "outcomes", required=False)
    found = {"judge": config.get("critique", {}).get("judge"), "outcomes": config["rollout"].get("outcomes")}
    built = parts.instantiate_classes(parts.parse_object({key: part for key, part in found.items() if part}))
    assert (built.get("judge") is None) == (name == "sft" or name.startswith("grpo"))
    assert (built.get("outcomes") is None) == ("genorm" not in name)


STACKS = {
    "experiment=grpo_rule": (["algorithm/grpo.yaml"], []),
    "experiment=capo_greedy": (["genprm/noisy.yaml", "vote/greedy_small.yaml"], []),
    "experiment=grpo_genorm_n8": (["algorithm/grpo.yaml", "genorm/noisy.yaml"], ["--rollout.outcomes.k", "8"]),
    "experiment=capo genprm=qwen2.5_72b llm=qwen2.5_7b gate=arithmetic": (
        ["genprm/qwen2.5_72b.yaml", "llm/qwen2.5_7b.yaml", "gate/arithmetic.yaml"],
        ["--critique.judge.k", "4", "--critique.judge.vote", "intersection"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", STACKS)
def test_files_laid_over_a_config_give_what_hydra_composes_of_them(words):
    """The parser's merge and Hydra's are two programs; on these files they agree."""
    files, flags = STACKS[words]
    root = ["--trainer.default_root_dir", json.loads(composed(*words.split()))["trainer"]["default_root_dir"]]
    assert flat(parser()([*BASE, *overlays(*files), *flags, *root])) == flat(parse_words(*words.split()))


@pytest.mark.slow
def test_the_systems_of_the_paper_are_there():
    assert set(EXPERIMENTS) >= {
        *("sft", "grpo_rule", "grpo_genorm_n2", "grpo_genorm_n4", "grpo_genorm_n8"),
        *("capo", "capo_majority", "capo_union", "capo_average", "capo_greedy", "capo_n2", "capo_n8"),
        *("capo_w2_0.1", "capo_w2_2", "capo_w2_5", "capo_w1_1"),
        *("capo_with_reference", "capo_without_reference"),
        *("capo_sequence", "capo_decoupled"),
    }
    models = {name: json.loads(composed(f"experiment={name}"))["model"] for name in EXPERIMENTS}
    credit = {name: model["init_args"].get("credit", {}) for name, model in models.items()}
    assert (credit["capo"]["w_whole"], credit["capo"]["w_process"], credit["capo"]["estimator"]) == (
        2,
        1,
        "token_pooled",
    )
    for name, weights in {"capo_w2_0.1": (2, 0.1), "capo_w2_5": (2, 5), "capo_w1_1": (1, 1)}.items():
        assert (credit[name]["w_whole"], credit[name]["w_process"]) == weights
    assert credit["capo_decoupled"]["estimator"] == "decoupled"
    assert (credit["grpo_rule"]["w_process"], credit["grpo_rule"]["estimator"]) == (0, "sequence")


def test_words_set_groups_values_and_the_seed_and_flags_lie_over_them():
    config = compose(["experiment=capo_majority", "seed=1", "model.init_args.credit.w_process=2"])
    assert config["seed_everything"] == 1
    assert config["critique"]["judge"]["init_args"]["vote"] == "majority"
    assert config["model"]["init_args"]["credit"]["w_process"] == 2
    assert not {"seed", "objective", "hydra", "defaults"} & set(config)
    assert compose(["ckpt_path=r0/checkpoints/step=3.ckpt"])["ckpt_path"] == "r0/checkpoints/step=3.ckpt"
    fit = parser()(["--config", json.dumps(config), "--model.credit.w_process", "3"])
    assert fit.model.init_args.credit.w_process == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=capoo"], "experiment/capoo.*capo_majority"),
        (["model.init_args.optim.lrr=1"], "model.init_args.optim.lrr"),
        (["seed"], "seed"),
        (["trainer.max_steps=${nothing}"], "nothing"),
        (["policy=runs/(a)=b"], r"quoted twice: 'KEY=\"VALUE\"'; or --KEY VALUE"),
    ],
)
def test_words_that_do_not_compose_are_named_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose(words)
    assert "\n" not in str(caught.value)
    assert "search path" not in str(caught.value)


def test_a_defaults_list_outside_of_configs_is_refused(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("defaults: [scale: small]\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml.*defaults"):
        parser()(["--config", str(file)])


def test_a_file_of_configs_is_composed_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (
        parser()(["--config", str(CONFIGS / "experiment" / "capo_union.yaml")]).critique.judge.init_args.vote == "union"
    )


def test_an_installed_package_holds_the_configs():
    packaged = REPO / "capo_lit" / "configs"
    assert packaged.resolve() == CONFIGS == REPO / "configs"
    settings = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["capo_lit"]
    found = {path for pattern in settings for path in (REPO / "capo_lit").glob(pattern)}
    assert {path.relative_to(packaged) for path in found if packaged in path.parents} == {
        path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")
    }


def test_no_two_experiments_compose_to_the_same_run():
    seen: dict[str, str] = {}
    for name in EXPERIMENTS:
        config = json.loads(composed(f"experiment={name}"))
        del config["trainer"]["default_root_dir"]
        assert seen.setdefault(json.dumps(config, sort_keys=True), name) == name


def test_the_example_of_ppo_lies_over_the_quickstart():
    fit = parser()([*BASE, "--config", str(REPO / "examples" / "ppo" / "ppo.yaml")])
    assert (fit.model.class_path, fit.model.init_args.ppo.value_lr) == ("examples.ppo.PPOModule", 1e-3)
    assert fit.model.init_args.policy == fit.policy
    assert fit.critique.judge is None
