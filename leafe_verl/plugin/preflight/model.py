"""Looks for the run's model before Ray starts: a folder with a config.json, or a name that the hub knows."""

from __future__ import annotations

import difflib
import functools
from pathlib import Path

from leafe_verl.embedded import model_folder
from leafe_verl.model_config import find_config

EXPECTED = "give a Hugging Face folder or owner/name in actor_rollout_ref.model.path, or MODEL=... before the recipe"
HUB_SECONDS = 10.0
"""How long the hub may take to answer whether it has a model."""


def model_problems(path: str, expected: str = EXPECTED) -> list[str]:
    """Return why there is no model at `path`, and what is `expected`. The embedded model is made later."""
    folder = Path(path).expanduser()
    if path == str(model_folder()) or (folder / "config.json").is_file():
        return []
    if folder.exists() or not is_hub_name(path):
        return [f"no model at {path} (no config.json there{_alike(folder)}); {expected}"]
    if (reason := why_not_on_hub(path)) is None:
        return []
    return [f"no model {path} (there is no such folder here{_alike(folder)}, and {reason}); {expected}"]


def is_hub_name(path: str) -> bool:
    """Return whether `path` may be owner/name on the hub."""
    return not path.startswith((".", "/", "~")) and path.count("/") == 1


@functools.cache
def why_not_on_hub(name: str) -> str | None:
    """Return why the hub gives no config.json of `name`, as a phrase; None if it is in the local cache afterwards."""
    if find_config(name):
        return None
    from huggingface_hub import errors, hf_hub_download, model_info

    try:
        # It answers at once where there is no network. hf_hub_download alone would try again for half a minute.
        model_info(name, timeout=HUB_SECONDS)
        hf_hub_download(name, "config.json")
    except errors.GatedRepoError:
        return f"its owner has to let you in: ask at https://huggingface.co/{name}, then log in with: hf auth login"
    except errors.RepositoryNotFoundError:
        return "the hub knows no model of that name that you may read (for a private one: hf auth login)"
    except errors.HFValidationError:
        return "the hub has no such names"
    except errors.OfflineModeIsEnabled:
        return "it is not in the hub's cache on this machine, which HF_HUB_OFFLINE restricts the search to"
    except Exception as error:  # of httpx or of requests, by the version of huggingface_hub
        said = str(error).strip().splitlines() or ["no answer"]
        return f"the hub did not give its config.json: {type(error).__name__}: {said[0]}"
    return None


def _alike(folder: Path) -> str:
    """Return a phrase that names the model beside the place that was given, if its name is nearly the same."""
    beside = [each.parent for each in folder.parent.glob("*/config.json")]
    found = difflib.get_close_matches(folder.name, [each.name for each in beside], n=1)
    return f", but in {folder.parent / found[0]}" if found else ""
