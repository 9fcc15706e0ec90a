"""What a planted bug is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """A change of one place in one file.

    Attributes:
        name: What is broken.
        file: Path from the project's root.
        old: Text that stands there exactly once.
        new: What it becomes.
        tests: Test files that should notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
