"""Verifier workers that the tests of this folder share: a start of the two costs seconds."""

from collections.abc import Iterator

import pytest

from capo_lit.verifier.pool import Verifier


@pytest.fixture(scope="package")
def patient() -> Iterator[Verifier]:
    """With time enough for a busy machine; of tests that count nothing and end no worker."""
    with Verifier(timeout_s=20) as verifier:
        yield verifier
