"""A model that is not there is told before Ray starts: a wrong path, a wrong name, a hub that does not answer."""

from __future__ import annotations

import pytest

pytest.importorskip("verl", reason="verl is not installed")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

import huggingface_hub
from huggingface_hub import errors

from leafe_verl.embedded import model_folder
from leafe_verl.plugin.preflight import model as model_check
from leafe_verl.plugin.preflight.model import model_problems, why_not_on_hub


@pytest.fixture(autouse=True)
def forget():
    why_not_on_hub.cache_clear()
    yield
    why_not_on_hub.cache_clear()


@pytest.fixture
def hub(monkeypatch):
    """Return a function that sets what the hub answers: an exception, or nothing if it has the model."""

    def answer(error: Exception | None) -> None:
        def ask(*_, **__):
            if error:
                raise error

        monkeypatch.setattr(huggingface_hub, "model_info", ask)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", ask)

    return answer


def without_response(kind: type[Exception], said: str) -> Exception:
    """An error of the hub, which is made from an answer over HTTP that the tests do not have."""
    error = kind.__new__(kind, said)
    error.args = (said,)
    return error


def test_folders_with_a_model_and_the_embedded_one_are_taken(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model_problems(str(tmp_path)) == model_problems(str(model_folder())) == []


@pytest.mark.parametrize("path", ["/no/such/model", "./models/none", "~/none", "none", "a/b/c"])
def test_a_path_without_a_model_is_no_question_to_the_hub(path, hub):
    hub(AssertionError("the hub was asked"))
    (problem,) = model_problems(path)
    assert problem.startswith(f"no model at {path} (no config.json there); give a Hugging Face folder or owner/name")
    assert "MODEL=... before the recipe" in problem


def test_a_typing_error_is_answered_with_the_model_beside_it(tmp_path):
    for name in ("qwen-0.5b", "llama"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (problem,) = model_problems(f"{tmp_path}/qwen-O.5b")
    assert f"(no config.json there, but in {tmp_path}/qwen-0.5b); give a" in problem
    assert "but in" not in model_problems(f"{tmp_path}/something-else")[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (without_response(errors.RepositoryNotFoundError, "404"), "the hub knows no model of that name"),
        (without_response(errors.GatedRepoError, "403"), "ask at https://huggingface.co/owner/name, then log in"),
        (errors.HFValidationError("bad"), "the hub has no such names"),
        (errors.OfflineModeIsEnabled("offline"), "which HF_HUB_OFFLINE restricts the search to"),
        (ConnectionError("[Errno -2] Name or service not known\nmore"), " ConnectionError: [Errno -2] Name or service"),
    ],
)
def test_a_name_that_the_hub_does_not_give_is_refused_with_its_reason(hub, error, said):
    hub(error)
    (problem,) = model_problems("owner/name")
    assert problem.startswith("no model owner/name (there is no such folder here, and ") and said in problem
    assert "\n" not in problem


def test_a_name_on_the_hub_is_asked_for_once(hub, monkeypatch):
    hub(None)
    assert model_problems("owner/name") == []
    hub(AssertionError("the hub was asked again"))
    assert model_problems("owner/name") == []


def test_a_name_in_the_cache_is_no_question_to_the_hub(hub, monkeypatch, tmp_path):
    hub(AssertionError("the hub was asked"))
    monkeypatch.setattr(model_check, "find_config", lambda name: tmp_path)
    assert model_problems("owner/name") == []
