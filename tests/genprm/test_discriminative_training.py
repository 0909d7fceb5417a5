"""The small discriminative PRM: what it is trained on is what the judge reads."""

from capo_lit.batch.facts import Completion, Prompt, Rollout
from examples.discriminative_prm import DiscriminativePRM
from examples.train_discriminative_prm import RIGHT, SEPARATOR, WRONG, _row, train_prm
from tests.support.config_parser import fit_parser
from tests.support.doc_blocks import REPO


def test_training_and_judge_lay_a_solution_out_alike_and_the_model_loads(tmp_path):
    judge = DiscriminativePRM(str(train_prm(tmp_path / "prm", size=64)), separator=SEPARATOR, wrong_label=WRONG)
    judge._load()
    # 12+7 is 19 and not 9; 9-5 follows from what was written, and the box copies it.
    problem, steps = "12+7-5?", ["12+7=9", "9-5=4", "\\boxed{4}"]
    text = "\n\n".join(steps)
    completion = Completion("0", (1,), (text,), (False,), text, None, "stop", 1, None, 0.0)
    rollout = Rollout(0, 0, 0, Prompt("0", problem, (1,), "14"), completion, 0.0)
    read = judge._read(rollout)
    ids, labels = _row(judge._tokenizer, problem, steps)
    assert read.ids == ids
    assert {end: labels[end] for end in read.ends} == dict(zip(read.ends, (WRONG, RIGHT, RIGHT), strict=True))
    assert sum(label in (WRONG, RIGHT) for label in labels) == 3
    (critiqued,) = judge.judge([rollout], seed=0)
    assert len(critiqued.verdict.step_error) == 3


def test_the_example_s_config_names_that_judge():
    files = (REPO / "configs" / "quickstart.yaml", REPO / "examples" / "discriminative_prm.yaml")
    judge = fit_parser()([word for file in files for word in ("--config", str(file))]).critique.judge
    assert judge.class_path == f"examples.discriminative_prm.{DiscriminativePRM.__name__}"
    assert (judge.init_args.separator, judge.init_args.wrong_label) == (SEPARATOR, WRONG)
