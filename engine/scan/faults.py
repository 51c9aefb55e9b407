"""What a scan meets that it cannot read, drawn once. No text of these holds a value of what was read."""


class ScanFault(Exception):
    """Base of what scanning raises.

    ScanFault
    ├── Unreadable    these bytes are not of the form that they should be, or of one that nobody here knows
    └── NeedleUnfit   a needle that is too short, empty, or no identifier of its kind
    """


class Unreadable(ScanFault):
    """These bytes are not of the form that they should be, or of one that nobody here knows."""


class NeedleUnfit(ScanFault):
    """A needle that is too short, empty, or no identifier of its kind. `number` says which, its text why."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"needle {number}: {why}")
        self.number = number
