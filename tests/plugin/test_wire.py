"""Records go in and come out as they were, also through what TransferQueue makes of them."""

import pytest

pytest.importorskip("verl", reason="verl is not installed; recipes/setup.sh installs it")

from tensordict import NonTensorData, TensorDict
from verl.utils import tensordict_utils as tu

from leafe_verl.core import Kind
from leafe_verl.core.playbook import Delta
from leafe_verl.core.recovery_figures import PlainAttempt
from leafe_verl.core.sft_examples import Teacher
from leafe_verl.plugin.wire import (
    DistillationInfo,
    ExampleRecord,
    TreeRecord,
    get_taught_tokens,
    get_term_tokens,
    read_record,
    set_taught_tokens,
    set_term_tokens,
)
from leafe_verl.trees.telling import telling_branch
from report.samples import rescued

RECORDS = [
    TreeRecord({"trees": 1}),
    TreeRecord({}, "task", (PlainAttempt(True, 3, (1, 2), 1), PlainAttempt(False, 1, (), 0))),
    TreeRecord({}, branch=telling_branch(rescued("corridor-3"))),
    TreeRecord({"attempts": 1}, delta=Delta(("a1",), (), ("look first",), num_tokens=7)),
    ExampleRecord(Kind.COUNTERFACTUAL, "task", tree=0, place=2, shared_tokens=5),
    ExampleRecord(Kind.REHEARSAL, "task", tree=1, place=0, shared_tokens=0),
    ExampleRecord(Kind.COUNTERFACTUAL, "task", tree=0, place=1, shared_tokens=5, teacher=Teacher((1, 2, 3), tokens=2)),
]


@pytest.mark.parametrize("wrap", [lambda extra: extra, NonTensorData], ids=["mapping", "TransferQueue"])
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_out_as_it_went_in(record, wrap):
    extra_fields = {"reward_extra_info": {"acc": 1.0}, **record.to_extra_fields()}
    assert read_record(wrap(extra_fields)) == record


def test_rows_of_others_have_no_record():
    assert read_record({"reward_extra_info": {}}) is None


def test_a_worker_reads_what_the_trainer_wrote():
    info = DistillationInfo({"counterfactual": 1.0, "rehearsal": 0.5}, updates=6, share_prefixes=False)
    data = tu.assign_non_tensor(TensorDict({}, batch_size=2), **info.to_extra_info())
    set_term_tokens(data, (4.0, 3.0))
    assert DistillationInfo.from_batch(data) == info
    assert get_term_tokens(data) == (4.0, 3.0)
    assert get_taught_tokens(data) == 0
    set_taught_tokens(data, 5.0)
    assert get_taught_tokens(data) == 5.0
