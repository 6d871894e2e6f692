"""What every test may use, and what every test must have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

# The machine may be busy: a property fails for what it finds, never for how long one example took.
settings.register_profile("hive", deadline=None)
settings.load_profile("hive")

ROOT = Path(__file__).resolve().parent.parent


def missing_part(reason: str) -> NoReturn:
    """Skip a test because this machine lacks something; a failure where `CI=true`, since CI must have everything.

    Args:
        reason: What is missing and how to get it, in one line.
    """
    message = f"missing part: {reason}"
    if os.environ.get("CI") == "true":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test that does not say which behaviour it shows."""
    if isinstance(item, pytest.Function) and not (item.function.__doc__ or "").strip():
        pytest.fail("this test has no docstring: state the behaviour in one sentence", pytrace=False)
