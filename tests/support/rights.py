"""The rights that docs/production.md gives to each role, and the same with one less."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from support.pages import DOCS

_PAGE: Final = DOCS / "production.md"
_CODE: Final = re.compile(r"`([^`]*)`")


@dataclass(frozen=True)
class AMQPRights:
    """Which names a user of RabbitMQ may configure, write and read: alternatives of a regular expression each."""

    configure: tuple[str, ...]
    write: tuple[str, ...]
    read: tuple[str, ...]

    def expressions(self) -> dict[str, str]:
        """As RabbitMQ wants them."""
        return {kind: f"^({'|'.join(names)})$" if names else "^$" for kind, names in vars(self).items()}

    def with_one_less(self) -> Iterator[tuple[str, AMQPRights]]:
        """Each of those that lack one of them, and what they lack."""
        for kind, names in vars(self).items():
            for name in names:
                yield f"{kind} on {name}", replace(self, **{kind: tuple(other for other in names if other != name)})


def amqp_rights() -> dict[str, AMQPRights]:
    """Of each role."""
    return {role: AMQPRights(*map(_alternatives, cells)) for role, cells in _rows("configure").items()}


def acl_rights() -> dict[str, tuple[str, ...]]:
    """The rules of each role at Redis: its keys and commands."""
    return {role: tuple(" ".join(cells).split()) for role, cells in _rows("keys").items()}


def _alternatives(expression: str) -> tuple[str, ...]:
    if expression == "^$":
        return ()
    found = re.fullmatch(r"\^\((.*)\)\$", expression)
    assert found, f"an expression of the table has the form ^(…|…)$, and not {expression}"
    return tuple(found[1].split("|"))


def _rows(second: str) -> dict[str, list[str]]:
    """The table whose second column is so called: what is in the first column, and the code in the others."""
    text = _PAGE.read_text(encoding="utf-8")
    lines = text[text.index(f"| Role | {second} |") :].partition("\n\n")[0].splitlines()[2:]
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in lines)
    return {role.strip(): [_code(cell) for cell in cells] for role, *cells in rows}


def _code(cell: str) -> str:
    (code,) = _CODE.findall(cell)
    return str(code).replace("\\|", "|")
