"""`leafe-verl recipes`: where the recipes of this installation are, and a copy of them to change."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

SET_UP = "setup.sh"
"""A file that is among the recipes, by which they are found."""


def find_recipes() -> Path:
    """Return the folder of the recipes: the checkout's own, or the one that the wheel has installed.

    Raises ValueError if there is none, as where the package was copied without its metadata.
    """
    checkout = Path(__file__).parents[1] / "recipes"
    if (checkout / SET_UP).is_file():
        return checkout
    try:
        installed = metadata.files("leafe-verl") or []
    except metadata.PackageNotFoundError:
        installed = []
    for file in installed:
        if file.parts[-2:] == ("recipes", SET_UP):
            return Path(str(file.locate())).resolve().parent
    raise ValueError(
        "this installation has no recipes; install the wheel of leafe-verl with pip, or clone the repository"
    )


def copy_recipes(folder: Path) -> Path:
    """Copy the recipes into a new folder and return it. Raises ValueError if it exists."""
    try:
        shutil.copytree(find_recipes(), folder)
    except FileExistsError:
        raise ValueError(f"{folder} exists; name a new folder, which the recipes are copied into") from None
    return folder
