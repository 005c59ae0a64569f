"""What a function can be called with, also where its annotations name what is there for type checkers only.

From Python 3.14 on annotations are code that runs when somebody asks for them (PEP 649). ``inspect.signature`` does:
it fails with a NameError where they name what is imported under ``if TYPE_CHECKING:``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, Final

_AS_TEXT: Final[dict[str, Any]] = {}

if sys.version_info >= (3, 14):
    import annotationlib

    _AS_TEXT["annotation_format"] = annotationlib.Format.STRING


def call_signature(function: Callable[..., object], *, follow_wrapped: bool = True) -> inspect.Signature:
    """``inspect.signature`` without a look at the annotations: they are text where they would have to be run.

    Raises:
        TypeError, ValueError: there is none, as for some builtins.
    """
    return inspect.signature(function, follow_wrapped=follow_wrapped, **_AS_TEXT)
