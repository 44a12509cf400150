"""LEAFE, the algorithm. Standard library and pydantic only; `explore.py` is the place to start reading.

    explorer = Explorer(make_environment=Guess, policy=policy, settings=Settings())
    tree = await explorer.explore(task, roots=4)
    examples = build_examples(tree, explorer.settings.distillation, seed=0)

`policy` is a `Policy`: that of plugin/rollout/server_policy.py samples from verl's servers, and `ScriptedPolicy` of the
tests answers from a table.
"""

from leafe_verl.core.environment import (
    Environment,
    EnvironmentFailure,
    EnvironmentFlood,
    EnvironmentTimeout,
    ReplayDivergence,
    ReplayEnvironment,
    ReplaySnapshot,
    Step,
)
from leafe_verl.core.explore import Explorer
from leafe_verl.core.policy import (
    ContextOverflow,
    History,
    Message,
    Policy,
    PolicyFailure,
    PolicyTimeout,
    PromptUsage,
    Turn,
)
from leafe_verl.core.reflection import Reflection
from leafe_verl.core.settings import Settings
from leafe_verl.core.sft_examples import Example, Kind, build_examples
from leafe_verl.core.task import Task
from leafe_verl.core.token_sequences import TokenSequence, build_sequence
from leafe_verl.core.tree import Attempt, Branch, ExplorationTree, Outcome, RecoveryTarget, StepRecord

__all__ = [
    "Attempt",
    "Branch",
    "ContextOverflow",
    "Environment",
    "EnvironmentFailure",
    "EnvironmentFlood",
    "EnvironmentTimeout",
    "Example",
    "ExplorationTree",
    "Explorer",
    "History",
    "Kind",
    "Message",
    "Outcome",
    "Policy",
    "PolicyFailure",
    "PolicyTimeout",
    "PromptUsage",
    "RecoveryTarget",
    "Reflection",
    "ReplayDivergence",
    "ReplayEnvironment",
    "ReplaySnapshot",
    "Settings",
    "Step",
    "StepRecord",
    "Task",
    "TokenSequence",
    "Turn",
    "build_examples",
    "build_sequence",
]
