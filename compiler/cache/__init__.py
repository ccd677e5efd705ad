"""The compile cache: a folder that keeps kernels, and whole artifacts, for the next compilation.

Every entry goes by a digest of all that it was made of: the model or the kernel, the options, the
target, burnish's own sources and the versions of its tools. Entries are written beside their place
and renamed, verified when they are read, and removed by the time of their last use when the folder
grows too large. Whatever goes wrong with the cache is a note in the report, never the end of a
compilation.
"""

from burnish.cache.artifacts import ArtifactCache
from burnish.cache.digest import stable_digest
from burnish.cache.kernels import KernelCache
from burnish.cache.store import Store, locked
from burnish.cache.toolchain import toolchain_digest

__all__ = [
    "ArtifactCache",
    "KernelCache",
    "Store",
    "locked",
    "stable_digest",
    "toolchain_digest",
]
