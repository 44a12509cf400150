"""The branches that reach TensorBoard and W&B, read back from the files that these write."""

import dataclasses
import json
import sys
from html.parser import HTMLParser

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from omegaconf import OmegaConf

from leafe_verl.plugin.trackers import tracks_branches
from leafe_verl.plugin.training.tracking import COLUMNS, build_row, html_table, track
from leafe_verl.trees.telling import telling_branch
from leafe_verl.trees.text import visible
from report.samples import HOSTILE, hostile, rescued

BRANCHES = [telling_branch(rescued("corridor-3")), telling_branch(hostile())]


class Cells(HTMLParser):
    """The texts of a table's body; any other element than a table is made of is kept as well."""

    def __init__(self):
        super().__init__()
        self.rows, self.others = [], set()

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag not in ("table", "thead", "tbody", "pre"):
            self.others.add(tag)

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.mark.parametrize(
    "trackers, branches, tracked",
    [(["console", "tensorboard"], 4, True), ("wandb", 1, True), (["console", "file"], 4, False), ("wandb", 0, False)],
)
def test_branches_are_drawn_up_where_a_tracker_wants_them(trackers, branches, tracked):
    config = OmegaConf.create({"trainer": {"logger": trackers}, "leafe": {"tracking": {"branches": branches}}})
    assert tracks_branches(config) is tracked


def test_tensorboard_has_the_table_and_the_pictures(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is missing; pip install tensorboard")
    pytest.importorskip("matplotlib", reason="matplotlib is missing, without which trees are no pictures")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from verl.utils.tracking import Tracking

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_DIR", str(tmp_path))
        tracking = Tracking("project", "experiment", ["tensorboard"])
    track(tracking.logger, BRANCHES, 3)
    tracking.finish()

    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (table,) = events.Tensors("leafe/branches/text_summary")
    assert table.step == 3
    assert "do not jump" in table.tensor_proto.string_val[0].decode()
    pictures = [events.Images(f"leafe/tree/{number}") for number in range(2)]
    assert [[(image.step, image.encoded_image_string[:4]) for image in each] for each in pictures] == [
        [(3, b"\x89PNG")],
        [(3, b"\x89PNG")],
    ]


def shown(*branches):
    """The rows of the table as TensorBoard shows it, and what is no part of a table."""
    plugin_util = pytest.importorskip(
        "tensorboard.plugin_util", reason="tensorboard is missing; pip install tensorboard"
    )
    cells = Cells()
    cells.feed(plugin_util.markdown_to_safe_html(html_table([build_row(told) for told in branches])))
    return cells.rows, cells.others


def test_tensorboard_shows_text_as_text():
    (heading, rescue, hurt), others = shown(*BRANCHES)
    assert heading == list(COLUMNS)
    assert rescue == ["corridor-3", "2", "do not jump", "J", "R", "1", "3", "yes", "the model's"]
    assert hurt[3].replace("\n", "") == visible(HOSTILE).replace("\n", "")
    assert others == set()


@pytest.mark.parametrize(
    "action",
    [
        "```python\ndef f(x):\n    return x\n```\n\n# heading\n* item\n\n```\nopen fence",
        "~~~\n| a | b |\n|---|---|\n~~~",
        "[link](http://example.org) **bold** `code`\n\n    indented",
    ],
)
def test_tensorboard_shows_markdown_as_text(action):
    told = [dataclasses.replace(BRANCHES[0], failed_action=action, revised_action=action)] * 2
    (_, *rows), others = shown(*told)
    assert [row[3:5] for row in rows] == [[action, action]] * 2
    assert others == set()


def test_long_lines_are_wrapped():
    (_, row), _ = shown(dataclasses.replace(BRANCHES[0], failed_action="word " * 100))
    lines = row[3].split("\n")
    assert max(map(len, lines)) <= 100 and "".join(lines) == "word " * 100


def test_wandb_has_the_table_with_the_pictures(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is missing; pip install wandb")
    pytest.importorskip("matplotlib", reason="matplotlib is missing, without which trees are no pictures")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    from verl.utils.tracking import Tracking

    monkeypatch.chdir(tmp_path)
    tracking = Tracking("project", "experiment", ["wandb"], config={"trainer": {}})
    track(tracking.logger, BRANCHES, 3)
    tracking.log({"actor/loss": 1.0}, step=3)
    tracking.finish()

    (written,) = tmp_path.rglob("branches_*.table.json")
    table = json.loads(written.read_text())
    assert table["columns"] == list(COLUMNS)
    assert table["data"][0] == ["corridor-3", 2, "do not jump", "J", "R", 1, 3, True, "the model's"]
    assert table["data"][1][3] == visible(HOSTILE)
    assert [path.read_bytes()[:4] for path in tmp_path.rglob("tree_*.png")] == [b"\x89PNG"] * 2


def test_without_matplotlib_the_table_goes_alone(monkeypatch, caplog):
    class Writer:
        logged = []

        def add_text(self, tag, text, step):
            self.logged.append((tag, step))

    class Adapter:
        writer = Writer()

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    track({"tensorboard": Adapter()}, BRANCHES, 1)
    assert Writer.logged == [("leafe/branches", 1)]
    assert "pip install 'leafe-verl[plots]'" in caplog.text and "leafe.tracking.branches=0" in caplog.text


def test_other_trackers_and_steps_without_branches_get_nothing():
    track({"console": None, "file": None}, BRANCHES, 1)
    track({"tensorboard": None, "wandb": None}, [], 1)
