"""Shows a run on the terminal from a thread of its launcher, which only waits: live, or line by line."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from leafe_verl.console.log_tail import LogTail
from leafe_verl.console.narration import Narrator
from leafe_verl.report.progress import RunFollower
from leafe_verl.report.watch import TRANSCRIPT, frame

POLL_SECONDS = 1.0
FULL_BYTES = 1 << 20
"""A disk with less room than this counts as full."""


class Display:
    """Looks at a run once a second, and shows what is new. What goes wrong here never reaches the run."""

    def __init__(self, console: Console, folder: Path, tail: LogTail, *, on_full: Callable[[], None]) -> None:
        self._console, self._folder, self._tail = console, folder, tail
        self._follower, self._narrator = RunFollower(folder), Narrator()
        self._on_full = on_full
        """Called once if the disk that has the log is full."""
        self._full = False
        self._live: Live | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leafe console", daemon=True)

    def start(self, heading: Iterable[str]) -> None:
        """Say the heading, and begin to show the run."""
        with suppress(OSError):
            (self._folder / TRANSCRIPT).unlink(missing_ok=True)
        self.say([*heading])
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # What this process prints belongs into the log, also while the live display is on.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
            self._live.start()
        self._thread.start()

    def stop(self) -> None:
        """Show what is left, and end the live display."""
        self._stopping.set()
        self._thread.join(timeout=10 * POLL_SECONDS)
        self._turn(last=True)
        if self._tail.hidden:
            self.say([f"{self._tail.hidden:,} more warnings are in the log"])
        self._end_live()

    def say(self, lines: Sequence[str]) -> None:
        """Print lines above the live display, and keep them."""
        with suppress(OSError), (self._folder / TRANSCRIPT).open("a", encoding="utf-8", errors="replace") as file:
            file.writelines(f"{line}\n" for line in lines)
        with suppress(OSError):  # a terminal that was closed
            for line in lines:
                self._console.print(line, markup=False, highlight=self._console.is_terminal, soft_wrap=True)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._turn()

    def _turn(self, *, last: bool = False) -> None:
        try:
            self._notice_full_disk()
            self.say([f"warning: {text}" for text in self._tail.new_warnings()])
            progress, now = self._follower.look(), time.time()
            told = self._narrator.lines(progress, now, heartbeats=self._live is None and not last)
            self.say([f"{time.strftime('%H:%M')}  {line}" for line in told])
            if self._live is not None and not last:
                self._live.update(frame(progress), refresh=True)
        except Exception as error:
            if not self._stopping.is_set():
                self._stopping.set()
                self._end_live()
                self.say([f"the run goes on, but cannot be shown any longer: {type(error).__name__}: {error}"])

    def _notice_full_disk(self) -> None:
        if not self._full and shutil.disk_usage(self._folder).free < FULL_BYTES:
            self._full = True
            self._end_live()
            self._on_full()

    def _end_live(self) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.update("", refresh=True)
                self._live.stop()
            self._live = None
