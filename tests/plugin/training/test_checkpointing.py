"""When a run saves, which checkpoint is the best, and which ones are removed."""

import os
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from leafe_verl.checkpoints import TRACKER, hf_folder
from leafe_verl.plugin.settings import CheckpointSettings
from leafe_verl.plugin.training.checkpointing import (
    BEST_FILE,
    BEST_LINK,
    REMOVED,
    BestCheckpoint,
    Cadence,
    CheckpointFolder,
    validation_interval,
)

MINUTE = 60.0
METRIC = "val-core/*/pass@1"


def best_at(step, value=0.5, metric=METRIC):
    return BestCheckpoint(step, metric, value, f"global_step_{step}")


def save(path, step, *, whole=True):
    actor = path / f"global_step_{step}" / "actor"
    actor.mkdir(parents=True)
    (actor / "weights.pt").write_text("")
    if whole:
        (actor.parent / "data.pt").write_text("")
        (path / TRACKER).write_text(str(step))


def names(path):
    return sorted(each.name for each in path.iterdir() if each.is_dir() and not each.is_symlink())


@pytest.fixture
def folder(tmp_path):
    return CheckpointFolder(tmp_path)


class TestSettings:
    @pytest.mark.parametrize(
        "wrong", [{"every_minutes": 0}, {"keep": 0}, {"validations": 0}, {"metric": ""}, {"evry_minutes": 3}]
    )
    def test_bounds(self, wrong):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            CheckpointSettings(**wrong)

    def test_null_turns_each_off(self):
        settings = CheckpointSettings(every_minutes=None, keep=None, metric=None)
        assert Cadence.from_settings(settings, save_freq=5, test_freq=5) == Cadence(None, None)


@pytest.mark.parametrize(
    ("total", "validations", "interval"),
    [(1, 10, 1), (2, 10, 2), (3, 10, 3), (5, 10, 3), (20, 10, 2), (25, 10, 3), (1000, 10, 100), (100, 1, 100)],
)
def test_validation_follows_the_length_of_the_run(total, validations, interval):
    assert validation_interval(total, validations) == interval


class TestCadence:
    def test_time_saves_once_the_minutes_have_passed(self):
        cadence = Cadence.from_settings(CheckpointSettings(), save_freq=100, test_freq=-1)
        assert not cadence.should_save(1, now=100 + 29.9 * MINUTE, last_saved=100)
        assert cadence.should_save(1, now=100 + 30 * MINUTE, last_saved=100)

    def test_every_validation_saves(self):
        cadence = Cadence.from_settings(CheckpointSettings(every_minutes=None), save_freq=100, test_freq=5)
        assert [step for step in range(1, 12) if cadence.should_save(step, 1e9, 0)] == [5, 10]

    def test_validation_saves_nothing_where_no_best_is_kept(self):
        cadence = Cadence.from_settings(CheckpointSettings(metric=None), save_freq=100, test_freq=5)
        assert not cadence.should_save(5, 0, 0)

    def test_a_save_freq_of_minus_one_saves_nothing(self):
        cadence = Cadence.from_settings(CheckpointSettings(), save_freq=-1, test_freq=5)
        assert not cadence.should_save(5, 1e9, 0)


class TestBestCheckpoint:
    def test_the_value_is_the_mean_of_the_matches(self):
        metrics = {"val-core/a/pass@1": 0.25, "val-core/b/pass@1": 0.75, "val-core/a/pass@8": 1.0, "actor/loss": 9.0}
        assert BestCheckpoint.from_metrics(metrics, METRIC, 4) == best_at(4, 0.5)

    @pytest.mark.parametrize("metrics", [{}, {"val-core/a/pass@2": 1.0}, {"val-core/a/pass@1": float("nan")}])
    def test_none_without_a_finite_match(self, metrics):
        assert BestCheckpoint.from_metrics(metrics, METRIC, 4) is None

    @pytest.mark.parametrize(
        ("other", "improves"),
        [
            (None, True),
            (best_at(2, 0.4), True),
            (best_at(2, 0.5), False),
            (best_at(2, 0.6), False),
            (best_at(4, 0.9), True),
            (best_at(2, 0.9, metric="val-core/*/pass@8"), True),
        ],
    )
    def test_more_is_better_and_the_earlier_wins_a_tie(self, other, improves):
        assert best_at(4, 0.5).improves_on(other) is improves


class TestNaming:
    def test_the_best_is_read_back(self, folder):
        save(folder.path, 2)
        folder.write_best(best_at(2))
        assert folder.read_best() == best_at(2)
        assert os.readlink(folder.path / BEST_LINK) == "global_step_2"
        save(folder.path, 4)
        folder.write_best(best_at(4))
        assert folder.read_best() == best_at(4)
        assert sorted(path.name for path in folder.path.iterdir() if "best" in path.name) == [BEST_LINK, BEST_FILE]

    def test_leftovers_of_a_killed_process_do_no_harm(self, folder):
        save(folder.path, 2)
        (folder.path / f"{BEST_FILE}.new").write_text('{"st')
        (folder.path / f"{BEST_LINK}.new").symlink_to("gone")
        assert folder.read_best() is None
        folder.write_best(best_at(2))
        assert folder.read_best() == best_at(2)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 2}'])
    def test_an_unreadable_record_names_none(self, folder, text):
        (folder.path / BEST_FILE).write_text(text)
        assert folder.read_best() is None

    def test_a_best_that_is_gone_names_none(self, folder):
        folder.write_best(best_at(2))
        assert folder.read_best() is None

    def test_the_link_is_a_model(self, folder, monkeypatch):
        save(folder.path, 2)
        (folder.path / "global_step_2/actor/fsdp_config.json").write_text("{}")
        (folder.path / "global_step_2/merged").mkdir()
        (folder.path / "global_step_2/merged/config.json").write_text("{}")
        folder.write_best(best_at(2))
        assert hf_folder(str(folder.path / BEST_LINK)) == str(folder.path.resolve() / "global_step_2/merged")

    @pytest.mark.parametrize(("resumed_at", "kept"), [(4, True), (6, True), (2, False), (0, False)])
    def test_a_run_that_begins_before_the_best_forgets_it(self, folder, resumed_at, kept):
        save(folder.path, 4)
        folder.write_best(best_at(4))
        folder.forget_best_after(resumed_at)
        assert (folder.read_best() is not None) is kept
        assert (folder.path / BEST_LINK).is_symlink() is kept
        assert names(folder.path) == ["global_step_4"]


class TestPruning:
    def test_the_newest_and_the_best_stay(self, folder):
        for step in (2, 4, 6, 8, 10):
            save(folder.path, step)
        folder.write_best(best_at(4))
        folder.prune(keep=2, protect_every=None)
        assert names(folder.path) == ["global_step_10", "global_step_4", "global_step_8"]

    def test_steps_that_the_user_asked_for_stay(self, folder):
        for step in (3, 4, 6, 7):
            save(folder.path, step)
        folder.prune(keep=1, protect_every=3)
        assert names(folder.path) == ["global_step_3", "global_step_6", "global_step_7"]

    def test_nothing_goes_before_the_latest_is_whole(self, folder):
        for step in (2, 4):
            save(folder.path, step)
        save(folder.path, 6, whole=False)
        (folder.path / TRACKER).write_text("6")
        folder.prune(keep=1, protect_every=None)
        assert names(folder.path) == ["global_step_2", "global_step_4", "global_step_6"]

    def test_an_unfinished_checkpoint_of_a_killed_run_is_not_counted(self, folder):
        save(folder.path, 2)
        save(folder.path, 3, whole=False)
        save(folder.path, 4)
        folder.prune(keep=2, protect_every=None)
        assert names(folder.path) == ["global_step_2", "global_step_4"]

    def test_later_steps_of_a_run_that_was_rolled_back_stay(self, folder):
        for step in (6, 8, 3, 4):
            save(folder.path, step)
        folder.prune(keep=1, protect_every=None)
        assert names(folder.path) == ["global_step_4", "global_step_6", "global_step_8"]

    def test_an_interrupted_removal_is_ended(self, folder):
        save(folder.path, 4)
        (folder.path / f"{REMOVED}global_step_2" / "actor").mkdir(parents=True)
        folder.prune(keep=2, protect_every=None)
        assert names(folder.path) == ["global_step_4"]


class TestHooks:
    """The trainer's hooks over verl's loop, with saving, validation and training steps that do nothing else."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        # verl's trainer first, as in a run: importing it registers our trainers (plugin/register.py).
        pytest.importorskip("verl.trainer.ppo.v1", reason="verl is not installed")
        from omegaconf import OmegaConf

        from leafe_verl.plugin.training import checkpointing_trainer
        from leafe_verl.plugin.training.checkpointing_trainer import CheckpointingTrainer, PPOTrainerSync

        saved, clock = [], SimpleNamespace(now=0.0)

        def save_checkpoint(trainer):
            saved.append(trainer.global_steps)
            save(tmp_path, trainer.global_steps)

        monkeypatch.setattr(PPOTrainerSync, "_init_dataloader", lambda self: None)
        monkeypatch.setattr(PPOTrainerSync, "_load_checkpoint", lambda self: None)
        monkeypatch.setattr(PPOTrainerSync, "step", lambda self, metrics, timing: None)
        monkeypatch.setattr(PPOTrainerSync, "_save_checkpoint", save_checkpoint)
        monkeypatch.setattr(PPOTrainerSync, "_validate", lambda self: {"val-core/a/pass@1": self.scores.pop(0)})
        monkeypatch.setattr(checkpointing_trainer.time, "monotonic", lambda: clock.now)

        def play(total, scores, *, minutes=0.0, trains=True, settings=None, epochs=1, **trainer_config):
            """verl's fit, as far as saving and validation go. Returns the steps that were saved and validated."""
            saved.clear()
            trainer = object.__new__(type("Trainer", (CheckpointingTrainer,), {"trains_weights": trains}))
            chosen = {
                "save_freq": None,
                "test_freq": None,
                "default_local_dir": str(tmp_path),
                "total_epochs": epochs,
                **trainer_config,
            }
            trainer.config = OmegaConf.create(
                {"run_dir": str(tmp_path), "trainer": chosen, "leafe": {"checkpoints": settings or {}}}
            )
            trainer.total_training_steps, trainer.scores, trainer.global_steps = total, [0.9, *scores], 0
            trainer.steps_per_epoch = 100
            validated = []
            trainer._init_dataloader()
            trainer._load_checkpoint()
            trainer._validate()
            trainer.on_train_begin()
            chosen, total = trainer.config.trainer, min(total, 100 * epochs)
            for step in range(1, total + 1):
                trainer.global_steps, clock.now = step, clock.now + minutes * MINUTE
                trainer.step({}, {})
                if chosen.save_freq > 0 and (step == total or step % chosen.save_freq == 0):
                    trainer._save_checkpoint()
                if chosen.test_freq > 0 and (step == total or step % chosen.test_freq == 0):
                    validated.append(step)
                    trainer._validate()
            return list(saved), validated

        return play

    def test_a_run_that_its_epochs_end_saves_and_validates_at_its_end(self, run):
        saved, validated = run(1000, [0.5] * 20, epochs=1)
        assert saved[-1] == validated[-1] == 100

    def test_two_steps_save_and_validate_once_at_the_end(self, run, folder):
        assert run(2, [0.1]) == ([2], [2])
        assert folder.read_best() == best_at(2, 0.1)

    def test_a_long_run_keeps_its_best_and_its_newest(self, run, folder):
        saved, validated = run(20, [0.1, 0.8, 0.2, 0.3, 0.4, 0.8, 0.5, 0.5, 0.5, 0.5])
        assert saved == validated == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
        assert folder.read_best() == best_at(4, 0.8)
        assert names(folder.path) == ["global_step_18", "global_step_20", "global_step_4"]

    def test_time_saves_between_validations(self, run):
        assert run(5, [0.1] * 2, minutes=12, test_freq=4) == ([3, 4, 5], [4, 5])

    def test_time_starts_anew_with_each_checkpoint(self, run):
        assert run(7, [], minutes=12, test_freq=-1)[0] == [3, 6, 7]

    def test_verls_save_freq_works_beside_it(self, run, folder):
        assert run(6, [], test_freq=-1, save_freq=2)[0] == [2, 4, 6]
        assert names(folder.path) == ["global_step_2", "global_step_4", "global_step_6"]

    def test_verls_limit_takes_the_place_of_keep(self, run, folder):
        assert run(6, [], test_freq=-1, save_freq=2, max_actor_ckpt_to_keep=1)[0] == [2, 4, 6]
        assert names(folder.path) == ["global_step_6"]

    def test_verls_former_name_of_a_limit_spares_the_best_too(self, run, folder):
        run(6, [0.8, 0.1, 0.1], remove_previous_ckpt_in_save=True)
        assert names(folder.path) == ["global_step_2", "global_step_6"] and folder.read_best() == best_at(2, 0.8)

    def test_null_keeps_all(self, run, folder):
        run(8, [0.1] * 4, settings={"keep": None})
        assert len(names(folder.path)) == 4

    def test_a_run_that_saves_nothing_names_nothing(self, run, folder):
        assert run(4, [0.1] * 2, save_freq=-1) == ([], [2, 4])
        assert not list(folder.path.iterdir())

    def test_a_trainer_that_trains_nothing_validates_at_the_end_alone(self, run):
        assert run(8, [0.1], trains=False, minutes=60) == ([], [8])

    def test_an_evaluation_leaves_the_best_of_the_folder_alone(self, run, folder):
        save(folder.path, 4)
        folder.write_best(best_at(4))
        run(0, [], val_only=True)
        assert folder.read_best() == best_at(4)
