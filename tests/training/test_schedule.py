"""Learning-rate factors, worked by hand."""

import pytest

from capo_lit.core.errors import ConfigError
from capo_lit.training.settings import lr_factor


def test_warm_up_then_constant():
    factor = lr_factor("constant", 4, -1)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_ends_at_zero():
    factor = lr_factor("linear", 2, 6)
    # Steps 2..6 fall by quarters: 1, .75, .5, .25, 0.
    assert [factor(step) for step in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_cosine_ends_at_a_tenth():
    factor = lr_factor("cosine", 0, 10)
    assert factor(0) == 1.0
    assert factor(5) == pytest.approx(0.1 + 0.9 * 0.5)
    assert factor(10) == factor(99) == pytest.approx(0.1)


def test_a_schedule_without_an_end_is_refused():
    with pytest.raises(ConfigError, match=r"max_steps -1.*trainer\.max_steps"):
        lr_factor("cosine", 5, -1)
