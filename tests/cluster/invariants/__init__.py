"""The properties of architecture §11 that can be seen from outside, one a file, each a function to complaints.

Each opens with the property in a sentence, and with what looks like a violation but is none. `test_invariants.py`
shows of each that it can fail.
"""

from __future__ import annotations


def assert_none(*complaints: list[str], limit: int = 20) -> None:
    """Fails with what the checkers found."""
    found = [complaint for some in complaints for complaint in some]
    shown = "\n".join(found[:limit])
    assert not found, f"{len(found)} violations:\n{shown}"
