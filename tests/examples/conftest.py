"""What the tests of one example share."""

import pytest

from tests.support.builders import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path)
    return str(path)
