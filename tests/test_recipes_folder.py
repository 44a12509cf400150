"""The wheel has the recipes and everything that the package reads, and `leafe-verl recipes` finds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from leafe_verl import __version__, recipes
from leafe_verl.cli import main

ROOT = Path(__file__).parents[1]
IN_THE_PACKAGE = ("*.py", "data/*.jsonl", "plugin/config/**/*.yaml", "report/page/*")
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel(r'{}'))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of this checkout, built without a network."""
    setuptools = pytest.importorskip("setuptools", reason="setuptools is not installed")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("setuptools is older than 77, which pyproject.toml needs")
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for name in ("leafe_verl", "recipes"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run(
        [sys.executable, "-c", BUILD.format(out)], cwd=copy, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def test_the_wheel_has_the_package_the_recipes_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {*archive.namelist()}
    shared = f"leafe_verl-{__version__}.data/data/share/leafe_verl/recipes"
    scripts = [path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").rglob("*.sh")]
    assert {f"{shared}/{script}" for script in scripts} <= names and f"{shared}/constraints-cpu.txt" in names
    files = [path for pattern in IN_THE_PACKAGE for path in (ROOT / "leafe_verl").rglob(pattern) if path.is_file()]
    assert {str(path.relative_to(ROOT)) for path in files} <= names
    assert not any(name.startswith(("tests", "recipes", "build")) for name in names)


def test_an_installed_wheel_has_the_recipes_and_prints_where(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    # Without --ignore-installed pip would first remove the package from the environment that runs the tests.
    apart = ["--ignore-installed", "--prefix", str(tmp_path)]
    subprocess.run([*pip, *apart, str(wheel)], check=True, timeout=120)
    (package,) = tmp_path.rglob("site-packages")
    command = [sys.executable, "-c", "import leafe_verl.cli as cli; print(cli.__file__); cli.main(['recipes'])"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(package)}, capture_output=True, text=True, timeout=60
    )
    file, folder = done.stdout.splitlines()
    assert Path(file) == package / "leafe_verl" / "cli.py"
    assert Path(folder) == tmp_path / "share" / "leafe_verl" / "recipes"
    assert (Path(folder) / "leafe_mbpp.sh").is_file() and (tmp_path / "bin" / "leafe-verl").is_file()


def test_a_checkout_has_its_own_recipes(capsys, tmp_path):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.strip() == str(ROOT / "recipes")
    assert main(["recipes", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "mine" / "cluster" / "slurm.sh").is_file()
    assert main(["recipes", str(tmp_path / "mine")]) == 1
    assert "exists; name a new folder" in capsys.readouterr().err


def test_an_installation_without_recipes_says_so(monkeypatch, tmp_path):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(recipes, "__file__", str(tmp_path / "leafe_verl" / "recipes.py"))
    monkeypatch.setattr(metadata, "files", absent)
    with pytest.raises(ValueError, match="this installation has no recipes"):
        recipes.find_recipes()


def test_the_changelog_names_the_version():
    assert f"## {__version__}" in (ROOT / ".github" / "CHANGELOG.md").read_text()
