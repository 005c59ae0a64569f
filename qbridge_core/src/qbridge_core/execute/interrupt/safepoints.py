"""Finds out where an exception from outside can be raised in a handler without leaving a lock held.

The frames below the handler decide: code that cleans up must not be cut short. In Python's bytecode the end of a
``with`` block and the copy of a ``finally`` block for the case without an exception are protected by nothing, so an
exception raised there would skip ``__exit__`` or ``release``. These lines, and everything that is called from them,
are left alone.

Sources: CPython's ``InternalDocs/exception_handling.md`` (before 3.13 ``Objects/exception_handling_notes.txt``) for
the exception table, and the ``dis`` module's list of instructions.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType
from typing import Final, NamedTuple

from qbridge_core.execute.interrupt.owncode import OwnCode, is_ours

_UNIT: Final = 2  # bytes of an instruction; addresses in the exception table count in these
_PUSH_EXC_INFO: Final = dis.opmap["PUSH_EXC_INFO"]
_WITH: Final = dis.opmap["WITH_EXCEPT_START"]
_MATCHES: Final = frozenset({dis.opmap["CHECK_EXC_MATCH"], dis.opmap["CHECK_EG_MATCH"]})
_POP_TOP: Final = dis.opmap["POP_TOP"]
_NOP: Final = dis.opmap["NOP"]
_CALLS: Final = frozenset({"CALL", "CALL_KW", "CALL_FUNCTION_EX"})
_CACHED: Final = 1024


def is_safe(frame: FrameType, own: OwnCode, entry: CodeType) -> bool:
    """True when an exception raised here, between two lines of the innermost frame, leaves nothing locked.

    Args:
        frame: the innermost frame of a thread.
        own: the handler's code. Nothing is raised elsewhere, nor in what QBridge has called back.
        entry: the code that calls handlers; False when it is not on the stack.
    """
    if not own.includes(frame):
        return False
    called_back = False
    here: FrameType | None = frame
    while here is not None and here.f_code is not entry:
        code = here.f_code
        # What __del__ raises reaches nobody.
        if here.f_lineno in cleaning_lines(code) or code.co_name == "__del__":
            return False
        if is_ours(here) and not own.includes(here):
            called_back = True
        elif called_back and own.includes(here):
            return False
        here = here.f_back
    return here is not None


def begins_try(frame: FrameType) -> bool:
    """True when the frame is at the word ``try``: what it guards was acquired just before."""
    return frame.f_code.co_code[frame.f_lasti] == _NOP


def precedes_try(frame: FrameType) -> bool:
    """True when the line after the frame's one is the word ``try``: what it guards is being acquired."""
    code, unit = frame.f_code, frame.f_lasti // _UNIT
    lines = _lines(code)
    following = next((n for n in range(unit + 1, len(lines)) if lines[n] not in (None, lines[unit])), None)
    return following is not None and code.co_code[following * _UNIT] == _NOP


@lru_cache(maxsize=_CACHED)
def backward_jumps(code: CodeType) -> dict[int, int]:
    """Where the turns of the loops end, and where each goes on."""
    jumps = (found for found in dis.get_instructions(code) if "JUMP_BACKWARD" in found.opname)
    return {jump.offset: jump.argval for jump in jumps}


@lru_cache(maxsize=_CACHED)
def one_line_loops(code: CodeType) -> frozenset[int]:
    """The first instructions of loops that are written in one line."""
    lines = _lines(code)
    jumps = backward_jumps(code).items()
    return frozenset(target for jump, target in jumps if lines[jump // _UNIT] == lines[target // _UNIT])


@lru_cache(maxsize=_CACHED)
def returns(code: CodeType) -> frozenset[int]:
    """The instructions that follow calls; not calls of ``acquire``, for what was acquired would stay so."""
    found, name, is_called = set[int](), "", False
    for instruction in dis.get_instructions(code):
        if is_called and "acquire" not in name:
            found.add(instruction.offset)
        is_called = instruction.opname in _CALLS
        if instruction.opname.startswith(("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL")):
            name = str(instruction.argval)
    return frozenset(found)


def have_one_guard(code: CodeType, one: int, other: int) -> bool:
    """True when exceptions at these two instructions lead to the same place."""
    table = list(_exception_table(code))
    return _guard(table, one // _UNIT) == _guard(table, other // _UNIT)


@lru_cache(maxsize=_CACHED)
def cleaning_lines(code: CodeType) -> frozenset[int]:
    """The lines of ``with`` statements and of ``finally`` blocks."""
    table, lines, instructions = list(_exception_table(code)), _lines(code), code.co_code[::_UNIT]
    found = set[int | None]()
    for target in {entry.target for entry in table}:
        if instructions[target] != _PUSH_EXC_INFO:
            continue
        first = target + 1
        if instructions[first] == _WITH:
            found.add(lines[first])
        elif instructions[first] != _POP_TOP and not _is_except(first, lines, instructions):
            found.update(lines[first : _end_of_handler(target, table)])
    return frozenset(line for line in found if line is not None)


class _Entry(NamedTuple):
    """While an instruction from start to end (excluded) runs, an exception leads to target."""

    start: int
    end: int
    target: int


def _is_except(first: int, lines: list[int | None], instructions: bytes) -> bool:
    """True for an ``except`` clause with a type; one without begins by dropping the exception."""
    for position in range(first, len(lines)):
        if lines[position] != lines[first]:
            return False
        if instructions[position] in _MATCHES:
            return True
    return False


def _end_of_handler(target: int, table: list[_Entry]) -> int:
    """Where a handler ends: all of it is guarded by the same clean-up code of the compiler."""
    outer = _guard(table, target)
    return max((entry.end for entry in table if entry.target == outer and entry.start >= target), default=target)


def _guard(table: list[_Entry], unit: int) -> int | None:
    return next((entry.target for entry in table if entry.start <= unit < entry.end), None)


def _lines(code: CodeType) -> list[int | None]:
    """The line of each instruction."""
    return [position[0] for position in code.co_positions()]


def _exception_table(code: CodeType) -> Iterator[_Entry]:
    numbers = _numbers(code.co_exceptiontable)
    for start in numbers:
        length, target, _ = next(numbers), next(numbers), next(numbers)
        yield _Entry(start, start + length, target)


def _numbers(table: bytes) -> Iterator[int]:
    """The numbers in the table: six bits to a byte, the highest first, and a mark when more bytes follow."""
    value = 0
    for byte in table:
        value = (value << 6) | (byte & 0x3F)
        if not byte & 0x40:
            yield value
            value = 0
