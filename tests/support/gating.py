"""What tests of the judge gate share: labelled solutions, and a judge that knows the labels and errs on demand."""

from capo_lit.batch.facts import Critique
from capo_lit.evaluation.judging.labelled import LabelledSource
from capo_lit.evaluation.judging.solutions import Solution
from capo_lit.genprm.base import StepJudge, critiqued


class Given(LabelledSource):
    """Right and wrong solutions of three steps; the error is always in step 1."""

    def __init__(self, right=4, wrong=4):
        labels = [-1] * right + [1] * wrong
        self.solutions = [Solution(f"s{n}", f"?{n}", ("a", "b", "c"), "\n\n", label) for n, label in enumerate(labels)]

    def load(self):
        return self.solutions


class Judge(StepJudge):
    """Knows the labels of `Given`, and gets the first `misses` wrong ones wrong; of other rollouts it flags step 0.

    A critique reads one token.
    """

    def __init__(self, misses=0, mute=False):
        self.misses, self.mute, self.seeds = misses, mute, []

    def judge(self, rollouts, seed):
        self.seeds.append(seed)
        for rollout in rollouts:
            uid = rollout.prompt.uid
            wrong = frozenset({0})
            if uid.startswith("s"):
                number = int(uid[1:])
                wrong = frozenset({1}) if number >= 4 + self.misses else frozenset()
            cause = "parse" if self.mute else ""
            yield critiqued(rollout, [Critique("", None if self.mute else wrong, cause, prompt_tokens=1)], "greedy")
