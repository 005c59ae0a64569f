"""What installed distributions announce, read without the half of the standard library that their other details need.

``importlib.metadata`` brings mail, archives and temporary files into a process, 2 MiB of them, to read a line of text.
Where distributions lie in directories, as almost everywhere, they are read here, by its rules and without what it
remembers; wherever else some may be is left to it.
"""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Iterator
from functools import reduce
from importlib.machinery import PathFinder
from typing import Final

_NONE_THERE: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM))
_DETAILS: Final = ("METADATA", "PKG-INFO")


class EntryPoint:
    """A name that a distribution announces in a group, and the module or object that it stands for."""

    __slots__ = ("distribution", "name", "value")

    def __init__(self, name: str, value: str, distribution: str) -> None:
        self.name = name
        self.value = value
        self.distribution = distribution

    def load(self) -> object:
        """Import what it stands for; raises whatever that raises."""
        module, _, attributes = (part.strip() for part in self.value.partition("[")[0].partition(":"))
        found: object = importlib.import_module(module)
        return reduce(getattr, attributes.split("."), found) if attributes else found


def entry_points(group: str) -> list[EntryPoint]:
    """All of a group; of several distributions with one name, those of the first on ``sys.path``. Thread-safe.

    Raises:
        OSError: what is there cannot be read now, for example without a free descriptor.
    """
    if not _lie_in_directories():
        return _found_by_others(group)
    found: dict[str, list[EntryPoint]] = {}
    for folder in _folders():
        name = _normalized(os.path.basename(folder).rpartition(".")[0].partition("-")[0])
        if name not in found:
            found[name] = list(_announced(folder, group))
    return [entry for entries in found.values() for entry in entries]


def _lie_in_directories() -> bool:
    """Whether no distribution can be anywhere else: in an archive, or where a finder of another kind looks."""
    others = (finder for finder in sys.meta_path if finder is not PathFinder)
    return not any(hasattr(finder, "find_distributions") for finder in others) and all(
        isinstance(place, str) and not place.lower().endswith(".egg") and not os.path.isfile(place)
        for place in sys.path
    )


def _found_by_others(group: str) -> list[EntryPoint]:
    from importlib import metadata  # loads a lot, see above

    metadata.MetadataPathFinder().invalidate_caches()  # of an instance: no class method before Python 3.13
    found = metadata.entry_points(group=group)
    os.close(os.open(os.devnull, os.O_RDONLY))  # without a free descriptor it finds nothing, and says nothing
    return [EntryPoint(entry.name, entry.value, entry.dist.name if entry.dist else entry.value) for entry in found]


def _folders() -> Iterator[str]:
    """Where the details of distributions are, in the order of ``sys.path``."""
    for place in sys.path:
        try:
            names = os.listdir(place or ".")
        except OSError as exc:
            if exc.errno not in _NONE_THERE:
                raise
            continue
        for name in names:
            if name.lower().endswith((".dist-info", ".egg-info")):
                yield os.path.join(place, name)


def _announced(folder: str, group: str) -> Iterator[EntryPoint]:
    inside = False
    for line in map(str.strip, _lines(os.path.join(folder, "entry_points.txt"))):
        if line.startswith("["):
            inside = line.strip("[]") == group
        elif inside and "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            yield EntryPoint(name.strip(), value.strip(), _distribution(folder))


def _distribution(folder: str) -> str:
    """The name that a distribution has given itself."""
    for line in (line for name in _DETAILS for line in _lines(os.path.join(folder, name))):
        if line.startswith("Name:"):
            return line.removeprefix("Name:").strip()
    return os.path.basename(folder).rpartition(".")[0].partition("-")[0]


def _lines(path: str) -> list[str]:
    """Of a file that need not be there."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError as exc:
        if exc.errno not in _NONE_THERE:
            raise
        return []


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
