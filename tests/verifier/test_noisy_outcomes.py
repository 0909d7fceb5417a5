"""Outcomes by rule with the errors of voters, against the binomial distribution and by hand."""

import math
import time
from collections import Counter
from concurrent.futures import Future
from threading import Timer

import pytest
from jsonargparse import ArgumentParser

from capo_lit.batch.facts import Prompt
from capo_lit.core.errors import ConfigError, VerifierError
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.verifier.outcomes import NoisyOutcomes
from capo_lit.verifier.pool import Verifier

PROMPT = Prompt("p", "1+1?", (1,), answer="2")
RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"
CONFIG = """
rollout:
  engine: {class_path: capo_lit.engines.hf.HFEngine, init_args: {model: nothing-is-loaded-yet}}
  outcomes:
    class_path: capo_lit.verifier.outcomes.NoisyOutcomes
    init_args: {k: 4, error_rate: 0.1}
"""


class Fixed(Verifier):
    """Answers at once, or when it is told to."""

    def __init__(self, future=None):
        super().__init__()
        self.future = future

    def submit(self, gold, response):
        if self.future is not None:
            return self.future
        done: Future = Future()
        done.set_result(float(gold in response))
        return done


def noisy(rule, *args, **settings):
    """NoisyOutcomes over a verifier that answers on demand."""
    source = NoisyOutcomes(*args, **settings)
    source.verifier = rule
    return source


def shares(k, error_rate, response, n=2000):
    source = noisy(Fixed(), k, error_rate)
    got = Counter(source.submit(PROMPT, response, seed).result(0) for seed in range(n))
    assert set(got) <= {0.0, 1.0}
    return got[1.0] / n


@pytest.mark.parametrize(("k", "error_rate"), [(1, 0.3), (3, 0.2), (4, 0.2)])
def test_outcomes_err_as_often_as_a_majority_of_independent_votes_does(k, error_rate):
    def at_least(votes, p):
        return sum(math.comb(k, c) * p**c * (1 - p) ** (k - c) for c in range(math.ceil(votes), k + 1))

    # Wrong if c >= k/2 votes say so: a tie counts against the response, so that k = 4 errs more on right ones.
    # Five sd of a share of 2000 draws are at most 0.056.
    assert shares(k, error_rate, RIGHT) == pytest.approx(1 - at_least(k / 2, error_rate), abs=0.056)
    assert shares(k, error_rate, WRONG) == pytest.approx(1 - at_least(k / 2, 1 - error_rate), abs=0.056)


def test_without_errors_it_is_the_rule_and_with_nothing_but_errors_its_opposite():
    assert [shares(1, 0.0, response, 20) for response in (RIGHT, WRONG)] == [1.0, 0.0]
    assert [shares(3, 1.0, response, 20) for response in (RIGHT, WRONG)] == [0.0, 1.0]


def test_the_votes_are_a_function_of_seed_and_prompt():
    def drawn(prompt=PROMPT):
        source = noisy(Fixed(), k=1, error_rate=0.5)
        return [source.submit(prompt, RIGHT, seed).result(0) for seed in range(64)]

    assert drawn() == drawn()
    assert drawn() != drawn(Prompt("q", "1+1?", (1,), answer="2"))


def test_unknown_stays_unknown_and_a_broken_verifier_says_so():
    late: Future = Future()
    outcome = noisy(Fixed(late), k=3, error_rate=1.0).submit(PROMPT, RIGHT)
    assert not outcome.done()
    late.set_result(None)
    assert outcome.result(0) is None
    broken: Future = Future()
    broken.set_exception(VerifierError("no workers", "some"))
    with pytest.raises(VerifierError, match="no workers"):
        noisy(Fixed(broken), k=3, error_rate=0.1).submit(PROMPT, RIGHT).result(0)


def test_an_outcome_that_nobody_waits_for_any_more_does_no_harm():
    late: Future = Future()
    outcome = noisy(Fixed(late)).submit(PROMPT, RIGHT)
    assert outcome.cancel()
    late.set_result(1.0)
    assert outcome.cancelled()


def test_a_step_waits_for_the_rule():
    late: Future = Future()
    source = noisy(Fixed(late), k=3, error_rate=1.0)
    outcome = source.submit(PROMPT, RIGHT)
    Timer(0.05, late.set_result, [1.0]).start()
    started = time.monotonic()
    while not outcome.done():
        source.step(10.0)
    assert outcome.result(0) == 0.0
    assert 0.03 < time.monotonic() - started < 5


@pytest.mark.parametrize("wrong", [{"k": 0}, {"error_rate": 1.1}, {"error_rate": -0.1}, {"k": 3}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ConfigError, match="NoisyOutcomes"):
        noisy(Fixed(), **wrong)


def test_a_config_can_name_it():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RolloutCallback, "rollout")
    rollout = parser.instantiate_classes(parser.parse_string(CONFIG)).rollout
    source = rollout.outcomes
    assert isinstance(source, NoisyOutcomes)
    assert (source.k, source.error_rate) == (4, 0.1)
