"""The first page of the documents, run from top to bottom, with fewer steps; it really trains, for some minutes."""

from pathlib import Path

import pytest

from tests.integration.doc_runs import clone_like, run_page
from tests.support.doc_blocks import REPO

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1800)]


def test_getting_started_runs_from_top_to_bottom(tmp_path: Path) -> None:
    assert run_page(REPO / "docs" / "getting-started.md", clone_like(tmp_path), systems=2) > 10
    assert (tmp_path / "capo.html").is_file()
    assert (tmp_path / "report" / "index.md").is_file()
