"""What the prompt of a long attempt contains: every step, or the latest steps after a running summary of the others.

o_1, which states the task ─ summary of turns 1..k ─ o_{k+1} ─► a_{k+1} ─► o_{k+2} ─► ... ─► o_t
└────────────────── one user message ──────────────────────┘   at least `window` turns verbatim

The summary is written by rule, without calling the model: one line for each turn, with its action and the first line of
its feedback, both shortened. The resulting prompt is the history h_t that is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leafe_verl.core.policy import History, Message, Policy, append_note
from leafe_verl.core.reflection import shorten
from leafe_verl.core.settings import ContextSettings
from leafe_verl.core.tree import StepRecord

HEADING = "Your turns so far, shortened (what you did -> how the feedback began):"
LAST_FEEDBACK = "The feedback to turn {turn} in full, after which comes turn {next_turn}:"
ARROW = " -> "
LINE_CHARACTERS = 160
"""Maximum length of one step in the summary: half for its action, half for the first line of its feedback."""
SUMMARY_CHARACTERS = 3000
"""Maximum length of the summary; if it has many steps, their lines become shorter."""


@dataclass(frozen=True)
class PromptNote:
    """Text in a prompt that is not part of the attempt: an experience, or the request to reflect."""

    step: int
    """The note follows the observation o_step, before that step's action."""
    text: str


def num_summarised(num_steps: int, settings: ContextSettings) -> int:
    """Return k, the number of first steps that the summary replaces once `num_steps` have been taken."""
    if settings.window is None:
        return 0
    return max(num_steps - settings.window, 0) // settings.stride * settings.stride


def window_moves(num_steps: int, settings: ContextSettings) -> bool:
    """Return whether the prompt after `num_steps` is built anew instead of extending the one before it."""
    return num_summarised(num_steps, settings) != num_summarised(num_steps - 1, settings)


async def history_after(
    policy: Policy,
    steps: Sequence[StepRecord],
    settings: ContextSettings,
    *,
    prompt: History | None = None,
    note: PromptNote | None = None,
) -> History:
    """Return the history after `steps`, which are all steps of an attempt's path, with `note` in it.

    The history extends the prompt of the last action token for token, unless the window moves; then it is built anew,
    with the actions as sampled. `prompt` is the prompt of the last action if that contained a note, else None.
    """
    number, last = len(steps), steps[-1]
    if not window_moves(number, settings):
        observation = _with_note(last.observation, number + 1, note)
        return await policy.extend(prompt or last.history, last.action, observation)
    past = num_summarised(number, settings)
    history = await policy.begin(_opening(steps, past, note))
    for t, step in enumerate(steps[past:], start=past + 1):
        history = await policy.extend(history, step.action, _with_note(step.observation, t + 1, note))
    return history


def summarise(steps: Sequence[StepRecord], note: PromptNote | None = None) -> str:
    """Return a line for each step, in at most SUMMARY_CHARACTERS. A note among them is not shortened.

    With many steps the lines become shorter, not fewer, so that a reflection can name any step. The last line has no
    feedback, since that follows in full.
    """
    share = min(LINE_CHARACTERS, (SUMMARY_CHARACTERS + 1) // len(steps) - 1)
    lines = []
    for t, step in enumerate(steps, start=1):
        if note and note.step == t:
            lines.append(f"Before turn {t}: {note.text}")
        lines.append(_line(t, step, max(share, 0), with_feedback=t < len(steps)))
    return "\n".join(filter(None, lines))


def _opening(steps: Sequence[StepRecord], past: int, note: PromptNote | None) -> tuple[Message, ...]:
    """Return the opening messages of the attempt, the last of which summarises the first `past` steps."""
    *before, first = steps[0].history.messages
    summary = f"{HEADING}\n{summarise(steps[:past], note)}"
    observation = _with_note(steps[past - 1].observation, past + 1, note)
    feedback = f"{LAST_FEEDBACK.format(turn=past, next_turn=past + 1)}\n{observation}"
    return (*before, {**first, "content": "\n\n".join((first["content"], summary, feedback))})


def _line(t: int, step: StepRecord, characters: int, with_feedback: bool) -> str:
    number = f"{t}. "
    action = " ".join(step.executed.split())
    room = max(characters - len(number) - len(ARROW), 0)
    if not with_feedback:
        return f"{number}{shorten(action, room)}"[:characters]
    feedback = next((line.strip() for line in step.observation.splitlines() if line.strip()), "")
    return f"{number}{shorten(action, room // 2)}{ARROW}{shorten(feedback, room // 2)}"[:characters]


def _with_note(observation: str, step: int, note: PromptNote | None) -> str:
    return append_note(observation, note.text) if note and note.step == step else observation
