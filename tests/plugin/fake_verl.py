"""In the place of verl's launcher: plays, with the real data set, what the command line asks for."""

from __future__ import annotations

import subprocess

from evaluation.stores import OUTCOMES
from leafe_verl.plugin import evaluate as verb
from leafe_verl.plugin.rollout.evaluation import EvaluationDataset
from leafe_verl.trees import TreeWriter


class FakeVerl:
    """Subclasses implement `keep(writer, config, row, outcome)`, which writes one attempt at a row's task."""

    def __init__(self):
        self.calls = []
        self.outcomes = iter([])
        """One of `OUTCOMES` for each attempt, then successes."""

    def __call__(self, command, **kwargs):
        self.calls.append(dict(text.split("=", 1) for text in command if "=" in text))
        config = verb._compose([text for text in command[7:] if not text.startswith("hydra.")])
        writer = TreeWriter(config.leafe.evaluation.store)
        for row in dataset(config).dataframe:
            for _ in range(row["__rollout_n__"]):
                self.keep(writer, config, row, OUTCOMES[next(self.outcomes, "+")])
        return subprocess.CompletedProcess(command, 0)


def dataset(config):
    made = object.__new__(EvaluationDataset)
    made.config, made.max_samples = config.data, config.data.val_max_samples
    made.original_data_files = list(config.data.val_files)
    made._read_files_and_tokenize()
    return made
