"""Fixtures that tests of several folders share."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import ModelUnavailable, model_path
from tests.support.compiled_zoo import CompiledZoo


@pytest.fixture(scope="session", autouse=True)
def usual_signals() -> None:
    """Let processes that tests start die of Ctrl-C: a job in the background of a shell, or under
    nohup, hands down that it is ignored."""
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def compiled_zoo() -> Iterator[CompiledZoo]:
    """The real models, each compiled once in a session, when first asked for."""
    from tests.models.store import cache_dir

    # Gigabytes: on the disk of the cache, not in a /tmp that may be memory.
    with tempfile.TemporaryDirectory(prefix="artifacts-", dir=cache_dir()) as folder:
        yield CompiledZoo(Path(folder))


@pytest.fixture
def zoo_file(request: pytest.FixtureRequest) -> Path:
    """The file of the model that the parameter ``name`` names, or a skip that says why not."""
    name = request.getfixturevalue("name")
    try:
        return model_path(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
