"""The console of one run, from its launcher's start to its end, be it a good one, an error or an interrupt."""

from __future__ import annotations

import atexit
import os
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rich.console import Console

from leafe_verl.activity import ENDED, FAILED, STOPPED, ActivityFile
from leafe_verl.console.capture import Capture
from leafe_verl.console.display import Display
from leafe_verl.console.ending import RunChoices, again, ending, next_commands
from leafe_verl.console.failure import describe_failure, engine_cause
from leafe_verl.console.log_tail import LogTail
from leafe_verl.report.present import seconds_text
from leafe_verl.shell import shown

LOG = "log.txt"
VERBOSE = "VERBOSE"
"""Environment variable: anything but nothing and 0 prints everything to the terminal, and no log is written."""


class _Terminal(Console):
    """A terminal that may be closed, or piped into a program that ends first."""

    def on_broken_pipe(self) -> None:
        """Say nothing more. rich would point this process's output, which is the log, to nowhere, and end it."""
        self.quiet = True


class RunConsole:
    """Shows one run. Without a display, because the run is verbose or no log can be written, it says the end alone."""

    def __init__(self, run_dir: Path, choices: RunChoices) -> None:
        self._run_dir, self._choices = run_dir, choices
        self._capture = Capture(run_dir / LOG)
        self._display: Display | None = None
        self._began = time.time()
        self._closed = False

    def open(self, heading: Iterable[str]) -> None:
        """Say the heading, then show the run, and print everything else to the log."""
        ActivityFile(self._run_dir).start()
        self._say_when_python_ends()
        if not is_verbose():
            try:
                self._capture.start(f"\n== {time.strftime('%Y-%m-%d %H:%M:%S %Z')}: {shlex.join(sys.argv)}\n")
            except OSError as error:
                print(f"warning: {self._capture.log} cannot be written ({error}), so everything is printed here")
            else:
                self._display = self._make_display()
        if self._display:
            self._display.start(heading)
        else:
            self.say(heading)

    def say(self, lines: Iterable[str]) -> None:
        """Print lines to the terminal."""
        if self._display:
            self._display.say([*lines])
        else:
            with suppress(OSError):  # a terminal that was closed
                print(*lines, sep="\n", flush=True)

    def succeed(self, *, trained: bool) -> None:
        """Say what a run that went well came to. One that trained nothing has its figures elsewhere."""
        if self._end(ENDED) and trained:
            self.say(ending(self._run_dir))
            self.say([*self._log_line(), f"time: {seconds_text(time.time() - self._began)}"])
            self.say(next_commands(self._run_dir, self._choices))

    def fail(self, error: BaseException) -> None:
        """Say why the run failed."""
        if self._end(FAILED):
            self.say(["", f"The run failed after {seconds_text(time.time() - self._began)}:", *describe_failure(error)])
            self.say([*engine_cause(error, self._capture.log, self._capture.offset)])
            self.say([*self._log_line(), *self._again_lines()])

    def stop(self) -> None:
        """Say that somebody stopped the run; nothing if its end has been said."""
        if self._end(STOPPED):
            self.say(["", f"The run was stopped after {seconds_text(time.time() - self._began)}."])
            self.say([*self._log_line(), *self._again_lines()])

    def release(self) -> None:
        """Print to the terminal again, without a word: the caller has something else to say."""
        self._end(STOPPED)
        self._capture.release()

    def _end(self, how: str) -> bool:
        """End the display. Return whether it had not been ended before."""
        if self._closed:
            return False
        self._closed = True
        ActivityFile(self._run_dir).end(how)
        if self._display:
            self._display.stop()
        return True

    def _make_display(self) -> Display:
        terminal = self._capture.terminal()
        console = _Terminal(file=terminal, force_terminal=terminal.isatty())
        tail = LogTail(self._capture.log, self._capture.offset)
        return Display(console, self._run_dir, tail, on_full=self._go_on_without_log)

    def _go_on_without_log(self) -> None:
        self.say([f"warning: the disk of {shown(self._run_dir)} is full, so everything is printed here from now on"])
        self._capture.release()

    def _log_line(self) -> list[str]:
        return [f"log: {shown(self._capture.log)}"] if self._display else []

    def _again_lines(self) -> list[str]:
        if self._choices.config == "evaluate":  # leafe-verl evaluate, which started this launcher, says how
            return []
        return ["to go on from its last checkpoint, if there is one:", f"  {again(self._run_dir, self._choices)}"]

    def _say_when_python_ends(self) -> None:
        """Say the end of a run that no callback of Hydra hears of: Ctrl-C, or a signal that Ray turns into an exit."""
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
            if issubclass(kind, KeyboardInterrupt):
                self.stop()
            else:
                self.fail(error)
            before(kind, error, traceback)

        sys.excepthook = hook
        launcher = os.getpid()
        atexit.register(lambda: self.stop() if os.getpid() == launcher else None)


def is_verbose() -> bool:
    """Return whether the user wants to see everything."""
    return os.environ.get(VERBOSE, "0") not in ("", "0")
