"""Counts of what happened in exploration trees, which add up over trees, and ratios of their sums."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

from leafe_verl.core.branch_figures import named_steps
from leafe_verl.core.recovery_figures import share_parts
from leafe_verl.core.sft_examples import Example, Kind
from leafe_verl.core.tree import ExplorationTree, Outcome

Number = TypeVar("Number", int, float)


def count(tree: ExplorationTree, examples: Iterable[Example]) -> dict[str, int]:
    """Return the counts of one tree. Counts of several trees can be added up with `total`."""
    counts = Counter({f"outcome/{outcome.value}": 0 for outcome in Outcome})
    counts.update(f"outcome/{attempt.outcome.value}" for attempt in tree.attempts)
    counts.update({f"examples/{kind.value}": 0 for kind in Kind})
    counts.update(f"examples/{example.kind.value}" for example in examples)
    return dict(counts) | _branch_counts(tree) | _agreement_counts(tree) | _prompt_counts(tree) | _totals(tree)


def _totals(tree: ExplorationTree) -> dict[str, int]:
    """Count the tree itself, its attempts, branches and reflections, and what they cost."""
    attempts, branches = tree.attempts, tree.branches()
    steps = [step for attempt in attempts for step in attempt.steps]
    turns = [step.action for step in steps]
    reflections = [reflection for _, reflection in tree.reflections]
    recoveries = tree.recovery_targets or []
    executed = sum(recovery.outcome.scored for recovery in recoveries)
    return {
        "trees": 1,
        "trees_scored": int(any(attempt.outcome.scored for attempt in attempts)),
        "solved": int(any(attempt.outcome is Outcome.SUCCESS for attempt in attempts)),
        "attempts": len(attempts),
        "attempts_scored": sum(attempt.outcome.scored for attempt in attempts),
        "branches": len(branches),
        "branches_scored": sum(attempts[index].outcome.scored for index, _ in branches),
        "branches_improved": sum(tree.improved(index) for index, _ in branches),
        "branches_succeeded": sum(attempts[index].outcome is Outcome.SUCCESS for index, _ in branches),
        "reflections": len(reflections),
        "reflections_parsed": sum(reflection.parsed for reflection in reflections),
        "reflections_fallback": sum(not reflection.parsed for reflection in reflections),
        "confirmations": executed,
        "confirmations_confirmed": sum(recovery.confirmed for recovery in recoveries),
        "confirmations_unscored": len(recoveries) - executed,
        "environment_steps": tree.environment_steps,
        "replayed_steps": tree.replayed_steps,
        "attempts_ended_early": sum(attempt.ended_early for attempt in attempts),
        "attempts_out_of_context": sum(attempt.out_of_context for attempt in attempts),
        "unplayed_steps": sum(attempt.unplayed_steps for attempt in attempts if attempt.ended_early),
        "timed_out_actions": sum(step.timed_out for step in steps),
        "incomplete_actions": sum(not turn.complete for turn in turns),
        "stopped_actions": sum(turn.num_added > 0 for turn in turns),
        "thought_tokens": sum(turn.num_thoughts - turn.num_closing for turn in turns),
        "closed_thoughts": sum(turn.num_closing > 0 for turn in turns),
        "sampled_tokens": sum(turn.num_sampled for turn in turns) + sum(r.num_tokens for r in reflections),
    }


def _branch_counts(tree: ExplorationTree) -> dict[str, int]:
    """Count scored and successful branches, by depth and by whether the reflection was the model's own answer."""
    counts: Counter[str] = Counter()
    for index, branch in tree.branches():
        attempt = tree.attempts[index]
        for group in (f"depth_{branch.depth}", "parsed" if branch.reflection.parsed else "fallback"):
            counts[f"branches_{group}"] += attempt.outcome.scored
            counts[f"branches_{group}_succeeded"] += attempt.outcome is Outcome.SUCCESS
    return dict(counts)


def _agreement_counts(tree: ExplorationTree) -> dict[str, int]:
    """Count pairs of independent reflections on the same steps, and the pairs that name the same step."""
    pairs = [pair for steps in named_steps(tree).values() for pair in itertools.combinations(steps, 2)]
    return {"reflection_pairs": len(pairs), "reflection_pairs_agreed": sum(a == b for a, b in pairs)}


def _prompt_counts(tree: ExplorationTree) -> dict[str, int]:
    """Count the tokens of prompts, and those that the prefix cache held, by what the prompt asked for."""
    prompts = [("reflect", reflection.prompted) for _, reflection in tree.reflections]
    for attempt in tree.attempts:
        prompts += [("branch" if attempt.branch else "explore", step.action.prompted) for step in attempt.steps]
    counts: Counter[str] = Counter()
    for kind, prompted in prompts:
        if prompted:
            counts[f"prompt_tokens/{kind}"] += prompted.num_tokens
            counts[f"cached_tokens/{kind}"] += prompted.num_cached
    return dict(counts)


def total(counts: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """Add up the counts of several trees."""
    summed: dict[str, Number] = {}
    for each in counts:
        for name, number in each.items():
            summed[name] = summed[name] + number if name in summed else number
    return summed


def count_tasks(attempts: Iterable[tuple[str, Mapping[str, Number]]]) -> dict[str, Number]:
    """Count each task once, where every attempt at it is a tree of its own.

    Args:
        attempts: The key of the task, and the counts of one attempt.
    """
    tasks: dict[str, list[Mapping[str, Number]]] = {}
    for key, counts in attempts:
        tasks.setdefault(key, []).append(counts)
    return {
        "trees": len(tasks),
        "trees_scored": sum(any(each.get("trees_scored") for each in task) for task in tasks.values()),
        "solved": sum(any(each.get("solved") for each in task) for task in tasks.values()),
    }


def ratios(counts: Mapping[str, float]) -> dict[str, float]:
    """Return success rates and other shares, each of what was scored. A share of nothing is absent, not zero."""
    pairs = {
        "task_success": ("solved", "trees_scored"),
        "attempt_success": ("outcome/success", "attempts_scored"),
        "branch_improved": ("branches_improved", "branches_scored"),
        "branch_success": ("branches_succeeded", "branches_scored"),
        "reflection_parsed": ("reflections_parsed", "reflections"),
        "confirmation_success": ("confirmations_confirmed", "confirmations"),
        "reflection_agreement": ("reflection_pairs_agreed", "reflection_pairs"),
    }
    groups = [key.removesuffix("_succeeded") for key in counts if re.fullmatch(r"branches_\w+_succeeded", key)]
    pairs |= {f"{group.replace('branches', 'branch_success', 1)}": (f"{group}_succeeded", group) for group in groups}
    pairs |= share_parts(counts)
    kinds = [key.removeprefix("cached_tokens/") for key in counts if key.startswith("cached_tokens/")]
    pairs |= {f"prefix_cache/{kind}": (f"cached_tokens/{kind}", f"prompt_tokens/{kind}") for kind in kinds}
    return {name: counts[part] / counts[whole] for name, (part, whole) in pairs.items() if counts.get(whole)}
