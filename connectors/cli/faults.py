"""Every way a command can end badly, drawn once: what is printed is one line, and it never repeats a value that was given."""


class CliFault(Exception):
    """Base of what ends a command. Its text is the line that the user reads; `exit_code` is the program's.

    CliFault
    ├── Refused       1: the answer is no: refused, not found, or something was found
    ├── BadUsage      2: the command cannot mean anything as it was typed
    └── Unanswered    2: nobody could be asked: no service, no token, a folder in use, a broken file
    """

    exit_code = 2


class Refused(CliFault):
    """The answer is no: refused, not found, or something was found. `code` is from the contract's closed list."""

    exit_code = 1

    def __init__(self, message: str, code: str = "", field: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code, self.field, self.status = code, field, status


class BadUsage(CliFault):
    """The command cannot mean anything as it was typed."""


class Unanswered(CliFault):
    """Nobody could be asked: no service, no token, a folder in use, a broken file."""
