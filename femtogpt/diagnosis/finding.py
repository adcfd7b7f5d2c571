"""What diagnose finds."""

from typing import NamedTuple


class Finding(NamedTuple):
    """A sickness: its name, a sentence with the measured number, and what helps."""

    name: str
    says: str
    helps: str
