"""The table of what branches were worth."""

from __future__ import annotations

from core.test_branch_figures import played, said, tree_of
from leafe_verl.core import Branch
from leafe_verl.evaluation.branches import render_branches


def test_a_row_for_each_group_with_shares_and_the_difference_to_a_fresh_sample():
    roots = [played("ab", "-"), played("c", "+"), played("de", "-")]
    branches = [played("c", "+", Branch(0, 1, 1, said(1, 2))), played("e", "-", Branch(2, 2, 1, said(2, 2)))]
    rows = {line.split("  ")[0]: line.split() for line in render_branches([tree_of(*roots, *branches)]).splitlines()}
    assert rows["all branches"][2:6] == ["2", "50.0", "50.0", "50.0"]
    assert rows["tau = 1"][3:] == ["1", "100.0", "100.0", "50.0", "+50.0", "(50.0", "to", "50.0)"]
    assert rows["tau = 2"][3:7] == ["1", "0.0", "0.0", "50.0"]


def test_a_dash_where_no_other_root_tells_what_a_fresh_sample_solves():
    tree = tree_of(played("ab", "-"), played("c", "+", Branch(0, 1, 1, said(1, 2))))
    assert render_branches([tree]).splitlines()[2].split()[2:] == ["1", "100.0", "100.0", "–", "–"]


def test_without_a_branch_it_says_so():
    assert render_branches([tree_of(played("ab", "-"))]) == "no scored branch"
