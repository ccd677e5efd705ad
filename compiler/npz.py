"""Writes arrays by name, as ``numpy.load`` reads them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz`` file; names may be any, also those of ``numpy.savez``'s own parameters."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)
