"""Where the demonstration plays: a claim gets its check mark only after it was checked, and is counted when it fails."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from connectors.cli.output import Format, rows_table

WAIT_SECS_MAX = 60.0  # for what follows "soon" from something: the slowest is the end of 300 conversations' retention
POLL_SECS = 0.05
ENCODINGS = ("utf-8", "utf-16-le")


class Stage:
    """Prints and counts. `claims` are (step, claim, whether it holds)."""

    def __init__(self, output: Format) -> None:
        self.output = output
        self.console = Console(highlight=False, quiet=output is Format.JSON)
        self.claims: list[tuple[str, str, bool]] = []
        self._step = ""
        self._number = 0

    def step(self, title: str) -> None:
        """Begin a step."""
        self._number += 1
        self._step = title
        self.console.print()
        self.console.print(Rule(Text(f"{self._number}. {title}", style="bold"), align="left"))

    def say(self, text: str) -> None:
        """Tell something that needs no proof."""
        self.console.print(Text(text), soft_wrap=True)

    def table(self, rows: list[dict[str, Any]]) -> None:
        """Show records."""
        self.console.print(rows_table(rows))

    def check(self, claim: str, holds: bool) -> bool:
        """Print a claim with whether it holds."""
        self.claims.append((self._step, claim, holds))
        mark = Text("  ✓ ", style="green") if holds else Text("  ✗ NOT SO: ", style="bold red")
        self.console.print(mark + Text(claim), soft_wrap=True)
        return holds

    def soon(self, claim: str, holds: Callable[[], bool]) -> bool:
        """Check a claim about what follows by itself: it has until `WAIT_SECS_MAX`."""
        return self.check(claim, until(holds))

    @property
    def failed(self) -> list[str]:
        """The claims that do not hold."""
        return [claim for _, claim, holds in self.claims if not holds]


def until(holds: Callable[[], bool]) -> bool:
    """Wait until something holds; False when it does not within `WAIT_SECS_MAX`."""
    give_up = time.monotonic() + WAIT_SECS_MAX
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(POLL_SECS)
    return True


def found_in_text(clues: Iterable[str], texts: Iterable[str]) -> set[str]:
    """Which clues stand in any of the texts, without regard to case; a number also without its spaces."""
    joined = "\n".join(texts).lower()
    return {clue for clue in clues if any(form.lower() in joined for form in (clue, clue.replace(" ", "")))}


def found_on_disk(clues: Iterable[str], *stores: Path) -> set[str]:
    """Which clues stand in the bytes of any of the files and folders, in the encodings that text is written in."""
    wanted = [(clue, {c.encode(e) for c in (clue, clue.lower(), clue.replace(" ", "")) for e in ENCODINGS}) for clue in clues]
    found = set()
    for file in (file for store in stores for file in (store, *store.rglob("*"))):
        if file.is_file():
            data = file.read_bytes()
            found |= {clue for clue, forms in wanted if any(form in data for form in forms)}
    return found
