"""Trained models at int8 on inputs of their own kind: what they decide stays what it was."""

from __future__ import annotations

import pytest

from tests.bench.accuracy import measure
from tests.models import ModelUnavailable
from tests.models.decisions import TASKS, sentence_pairs

pytestmark = [pytest.mark.models, pytest.mark.slow]


@pytest.mark.parametrize("name", TASKS)
def test_decisions_are_kept(name: str) -> None:
    try:
        row = measure(name)
    except ModelUnavailable as reason:
        pytest.skip(f"{name}: {reason}")
    assert row.worst >= TASKS[name].goal >= 0.97
    assert row.judged >= 16
    assert row.products[0] >= 4


def test_similarities_of_sentences_are_kept() -> None:
    try:
        row = measure("minilm")
    except ModelUnavailable as reason:
        pytest.skip(str(reason))
    assert row.judged == len(sentence_pairs()) >= 100
    assert row.worst <= 0.01
    assert row.products[0] >= 24, "of 36 that multiply weights"
