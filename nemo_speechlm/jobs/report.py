"""What a job did: lines done, lines skipped and why."""

import re
from collections import Counter
from dataclasses import dataclass, field

from nemo_speechlm.files import Record

_PARTICULARS = re.compile(r"""(?<!\w)(['"]).*?\1(?!\w)|\d+(\.\d+)?""")
"""What is quoted or counted in a message: it would make each line's reason another one."""


CUT_PHONES = "cut_phones"
"""A line's number of phones that a text-to-unit model wanted to be longer than it may make them."""


@dataclass
class JobReport:
    """What a job did: lines written, and why the others are missing (reasons without the particulars of a line)."""

    written: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    cut_phones: int = 0

    def wrote(self, record: Record) -> None:
        """Count one line written, and what it says of itself."""
        self.written += 1
        self.cut_phones += record.get(CUT_PHONES, 0)

    def skip(self, reason: str) -> None:
        """Count one line left out."""
        self.skipped[_PARTICULARS.sub("...", reason)] += 1

    def summary(self, of_written: str = "") -> str:
        """What was done, with the ten commonest reasons; ``of_written`` is said behind the number of lines written."""
        reasons = "".join(f"\n  {count} x {reason}" for reason, count in self.skipped.most_common(10))
        more = len(self.skipped) - 10
        cut = f"\n  {self.cut_phones} phones were as long as the model allows ({CUT_PHONES})"
        return (
            f"{self.written} written{of_written}, {self.skipped.total()} left out"
            + reasons
            + (f"\n  and {more} more reasons" if more > 0 else "")
            + (cut if self.cut_phones else "")
        )

    def __str__(self) -> str:
        return self.summary()
