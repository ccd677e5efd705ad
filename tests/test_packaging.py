"""The distribution: its source archive builds a wheel that has everything and works elsewhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from burnish.runtime.build import onednn_options
from tests.test_repository import PACKAGES, ROOT, files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUNTIME = "burnish/runtime/libburnish_runtime.so"
ONEDNN = "burnish/runtime/libburnish_onednn.so"


def setuptools_table() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def in_package(path: Path) -> str | None:
    """The path in the wheel of a file of the repository."""
    top, *rest = path.relative_to(ROOT).parts
    return "/".join((PACKAGES[top].replace(".", "/"), *rest)) if top in PACKAGES else None


def test_every_folder_is_a_listed_package() -> None:
    expected = set()
    for path in files():
        name = in_package(path)
        if name is not None and path.suffix == ".py":
            expected.add(name.rpartition("/")[0].replace("/", "."))
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
    assert set(setuptools_table()["packages"]) == expected


def test_every_native_source_is_listed() -> None:
    runtime, onednn = setuptools_table()["ext-modules"]
    folder = "compiler/runtime/csrc"
    assert {*runtime["sources"], *runtime["depends"]} == native_files(folder)
    listed = {*onednn["sources"], *onednn["depends"]}
    own = {name for name in listed if not name.startswith(folder)}
    assert own == native_files("backends/x86/onednn/csrc")
    assert listed - own <= native_files(folder)


def native_files(folder: str) -> set[str]:
    """The C++ files of a folder of the repository."""
    paths = (ROOT / folder).iterdir()
    return {str(p.relative_to(ROOT)) for p in paths if p.suffix in (".cc", ".h")}


def native_libraries() -> set[str]:
    """What is built here: without oneDNN's headers, its operations are left out."""
    return {RUNTIME, ONEDNN} if onednn_options(ROOT) is not None else {RUNTIME}


def backend(hook: str, project: Path, output: Path) -> Path:
    """Call a hook of the build backend, as pip does but without fetching the build requirements."""
    code = f"from setuptools import build_meta; print(build_meta.{hook}({str(output)!r}))"
    output.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return output / result.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, made from a copy so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    copy = folder / "checkout"
    for path in files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return backend("build_sdist", copy, folder / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        # Older Pythons have no filters; the archive is our own.
        options: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **options)
    (project,) = folder.iterdir()
    return backend("build_wheel", project, folder / "dist")


def test_the_wheel_has_exactly_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    content = {name for name in names if ".dist-info/" not in name}
    # The native sources are there to build the runner from, for other machines.
    kinds = (".py", ".cc", ".h")
    expected = {name for path in files() if path.suffix in kinds and (name := in_package(path))}
    assert content == expected | native_libraries() | {"burnish/py.typed"}
    info = {name.rpartition("/")[2] for name in names - content}
    assert {"METADATA", "LICENSE", "entry_points.txt"} <= info


def test_the_wheel_serves_every_python_on_this_platform(wheel: Path) -> None:
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name.endswith(f"-py3-none-{platform}.whl")


_IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import burnish
home = pathlib.Path(burnish.__file__).parent
assert home == pathlib.Path(sys.argv[1]), home
for module in pkgutil.walk_packages([str(home)], "burnish."):
    # The native libraries are no Python modules, though their names look like ones.
    if module.name == "burnish.__main__" or ".libburnish_" in module.name:
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        # What is made for a framework imports it.
        assert module.name.startswith("burnish.frontends."), module.name
        assert error.name in ("torch", "keras"), error
    except burnish.BurnishError as error:
        assert module.name == "burnish.integrations.huggingface", module.name
        assert "transformers" in str(error)
from burnish.runtime import default_threads
assert default_threads() >= 1
maps = open("/proc/self/maps").read()
assert str(home / "runtime" / "libburnish_runtime.so") in maps
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """Python with the wheel in an environment of its own, and where burnish lies there."""
    folder = tmp_path_factory.mktemp("installed")
    # The requirements are taken from here; what a .pth file adds has no .pth files read, so this
    # environment's own burnish, which may be an editable one, is not seen.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = str(folder / "env" / "bin" / "python")
    query = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", query], text=True).strip())
    zipfile.ZipFile(wheel).extractall(site)
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return [python, "-P"] if sys.version_info >= (3, 11) else [python], site / "burnish"


def run_installed(command: list[str], folder: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run(command, cwd=folder, env=environment, check=True)


def test_the_wheel_works_in_an_environment_of_its_own(
    installed: tuple[list[str], Path], tmp_path: Path
) -> None:
    python, home = installed
    run_installed([*python, "-c", _IMPORT_ALL, str(home)], tmp_path)


@pytest.mark.slow
def test_the_wheel_builds_the_runner(installed: tuple[list[str], Path], tmp_path: Path) -> None:
    python, _ = installed
    run_installed([*python, "-m", "burnish", "runner", "folder"], tmp_path)
    run_installed([str(tmp_path / "folder" / "burnish_run"), "--help"], tmp_path)


def test_the_command_exists() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"burnish": "burnish.cli.main:main"}
    tree = ast.parse((ROOT / "compiler/cli/main.py").read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
