from __future__ import annotations

from pathlib import Path

import pytest

from wqtvm.demo.weights import weights_path
from wqtvm.errors import MissingDependencyError


@pytest.fixture(scope="session")
def weights() -> Path:
    """The file of FFDNet's weights; without it a test is skipped."""
    try:
        return weights_path()
    except MissingDependencyError as error:
        pytest.skip(str(error))
