"""Print the oldest versions that the metadata allows, as constraints for pip: ``pika==1.3.2`` for ``pika>=1.3.2,<2``.

Usage: lowest-versions.py PYPROJECT…
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path


def lowest(requirements: list[str]) -> Iterator[str]:
    """The constraint for each requirement but QBridge's own distributions, and pytest: these tests need a newer one."""
    for requirement in requirements:
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        if name.startswith("qbridge") or name == "pytest":
            continue
        bound = re.search(r">=\s*([\w.]+)", requirement)
        if bound is None:
            raise SystemExit(f"error: {requirement!r} has no lower bound")
        yield f"{name}=={bound[1]}"


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for constraint in lowest(tomllib.loads(Path(path).read_text())["project"]["dependencies"]):
            print(constraint)
