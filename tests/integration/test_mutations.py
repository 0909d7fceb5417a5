"""The core's unit tests notice planted faults."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.timeout(1400)
def test_every_mutation_of_the_core_is_noticed():
    script = Path(__file__).resolve().parents[1] / "support" / "mutation_check.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=1300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
