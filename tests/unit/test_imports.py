"""Letters that a caller has made, before they are imported."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace

import pytest

from qbridge_core import ConfigurationError, DeadLetter
from qbridge_core.contract.imports import check_imports

LETTER = DeadLetter.from_headers(b"{}", {}, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sent_at", datetime.datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the slip
        ("last_failed_at", math.nan),
        ("first_failed_at", math.inf),
        ("attempts", "three"),
    ],
)
def test_a_letter_that_says_what_no_letter_can_is_refused(field: str, value: object) -> None:
    """A time without a zone, no time at all, no number: told before anything is imported, and which letter it is."""
    with pytest.raises(ConfigurationError, match="letter"):
        check_imports([LETTER, replace(LETTER, **{field: value})])  # type: ignore[arg-type]
