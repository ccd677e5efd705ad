"""Real models for the tests and benchmarks: what they are, their origin, what to feed them."""

from tests.models.feeds import feeds
from tests.models.registry import ALL, EXTRA, ZOO, ExportedModel, PackagedModel, ZooModel
from tests.models.store import ModelUnavailable, file_path, model_path

__all__ = [
    "ALL",
    "EXTRA",
    "ZOO",
    "ExportedModel",
    "ModelUnavailable",
    "PackagedModel",
    "ZooModel",
    "feeds",
    "file_path",
    "model_path",
]
