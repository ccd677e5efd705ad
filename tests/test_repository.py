"""Rules that hold for the whole repository: its top level, who imports whom, sizes, words."""

from __future__ import annotations

import ast
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"compiler": "burnish", "passes": "burnish.passes", "backends": "burnish.backends"}

TOP_LEVEL = {
    *("pyproject.toml", "README.md", "LICENSE"),
    *("compiler", "passes", "backends", "examples", "tests"),
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

#: Who may import whom: a module of one layer imports its own layer and those before it, never one
#: that is named later. Modules in one group do not import each other. The kernel templates lie
#: below the lowering, which calls them; the rest of the backends lies above it.
LAYERS = (
    ("burnish.errors",),
    ("burnish.options", "burnish.npz", "burnish.worker", "burnish.check.tolerances"),
    ("burnish.ir", "burnish.artifact"),
    ("burnish.cache",),
    ("burnish.export", "burnish.runtime"),
    ("burnish.importers", "burnish.passes", "burnish.backends.cpu"),
    ("burnish.lowering",),
    ("burnish.backends.base", "burnish.backends.te_graph", "burnish.backends.te_table"),
    ("burnish.backends.composites", "burnish.backends.images"),
    ("burnish.backends.cpu.rules",),
    ("burnish.backends",),
    ("burnish.check",),
    ("burnish.calibration",),
    ("burnish.precision",),
    ("burnish.frontends",),
    ("burnish.bench",),
    ("burnish.attestation",),
    ("burnish.tuning",),
    ("burnish.requests",),
    ("burnish.driver",),
    ("burnish.optimization", "burnish.quantization"),
    ("burnish.auto",),
    ("burnish.compilation",),
    ("burnish.api",),
    ("burnish.integrations",),
    ("burnish.gate",),
    ("burnish.report",),
    ("burnish.cli",),
    ("burnish.__main__",),
)

#: (importer, imported): single exceptions from the order, with the reason.
EXCEPTIONS = {
    # Constant folding exports a node to have it evaluated; the exporter is a module of the IR in
    # all but its place.
    ("burnish.ir.evaluate", "burnish.export"),
}

#: Third-party packages that a layer must not import, not even inside a function.
BANNED = {
    "burnish.passes": {"tvm", "tvm_ffi", "onnxruntime", "torch"},
    "burnish.importers": {"tvm", "tvm_ffi", "torch"},
    "burnish.ir": {"tvm", "tvm_ffi", "torch"},
    "burnish.artifact": {"tvm", "tvm_ffi", "onnx", "onnxruntime", "torch"},
    "burnish.cache": {"tvm", "tvm_ffi", "onnx", "onnxruntime", "torch"},
    "burnish.runtime": {"tvm", "tvm_ffi", "onnx", "onnxruntime"},
    "burnish.cli": {"tvm", "tvm_ffi"},
}


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file of the repository that git tracks or would track."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    paths = (ROOT / name for name in listed.decode().split("\0") if name)
    return tuple(path for path in paths if path.is_file())


def modules() -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of every module of the package."""
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


def imports(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it, except for type checkers only."""
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from burnish import api` imports burnish.api.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> tuple[int, str] | None:
    """Index and name of the layer of a module; the longest name counts."""
    found = [
        (len(name), index, name)
        for index, names in enumerate(LAYERS)
        for name in names
        if module == name or module.startswith(name + ".")
    ]
    return max(found)[1:] if found else None


def test_top_level() -> None:
    found = {path.relative_to(ROOT).parts[0] for path in files()}
    assert found == TOP_LEVEL


def test_every_module_has_a_layer() -> None:
    missing = [name for name, _ in modules() if name != "burnish" and layer(name) is None]
    assert not missing


def test_imports_follow_the_layers() -> None:
    wrong = []
    for name, path in modules():
        own = layer(name)
        for imported in imports(ast.parse(path.read_text(encoding="utf-8"))):
            other = layer(imported)
            if own is None or other is None or own == other:
                continue
            excepted = any(
                name == importer and imported.startswith(target) for importer, target in EXCEPTIONS
            )
            if other[0] >= own[0] and not excepted:
                wrong.append(f"{name} imports {imported}")
    assert not wrong


def test_layers_stay_free_of_heavy_packages() -> None:
    wrong = []
    for name, path in modules():
        own = layer(name)
        banned = BANNED.get(own[1], set()) if own else {"tvm", "tvm_ffi", "onnx", "onnxruntime"}
        wrong += [
            f"{name} imports {imported}"
            for imported in imports(ast.parse(path.read_text(encoding="utf-8")))
            if imported.split(".")[0] in banned
        ]
    assert not wrong


def test_importing_burnish_imports_nothing_heavy() -> None:
    code = """
import sys
import burnish
import burnish.cli.main
heavy = ("tvm", "tvm_ffi", "onnx", "onnxruntime", "torch")
assert not [name for name in heavy if name in sys.modules], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if ast.get_docstring(node) is not None:
        docstring = node.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines


def test_files_and_functions_are_short() -> None:
    long = []
    for path in files():
        if path.suffix not in (".py", ".cc", ".h"):
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        where = path.relative_to(ROOT)
        if lines > MAX_FILE_LINES:
            long.append(f"{where}: {lines} lines")
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = function_lines(node)
                if count > MAX_FUNCTION_LINES:
                    long.append(f"{where}: {node.name} has {count} lines")
    assert not long


#: Reminders of unfinished work, and paths of one developer's machine. Spelled so that this file
#: does not contain them.
FORBIDDEN = re.compile(
    "|".join((r"\bTO" + r"DO\b", r"\bFIX" + r"ME\b", r"\bXX" + r"X\b", r"\bHA" + r"CK\b"))
    + r"|(?<![\w.])/(?:ho"
    + r"me|ro"
    + r"ot|wo"
    + r"rk|Us"
    + r"ers)/\w"
)
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".cc", ".h", ".json", ".txt", ".sh", ""}


def test_no_forbidden_words() -> None:
    wrong = []
    for path in files():
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if FORBIDDEN.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not wrong


def test_python_files_say_what_they_are() -> None:
    wrong = [
        name
        for name, path in modules()
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert not wrong
