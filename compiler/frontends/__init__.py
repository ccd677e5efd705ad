"""Models of training frameworks, exported to ONNX on the way into the compiler.

Nothing here imports a framework until a model of it is given.
"""

from burnish.frontends.base import Exported, Frontend, frontend

__all__ = ["Exported", "Frontend", "frontend"]
