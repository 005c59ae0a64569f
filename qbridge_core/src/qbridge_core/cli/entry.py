"""Where the command begins: it says what is missing, or runs."""

from __future__ import annotations

import io
import sys
from importlib.util import find_spec
from typing import NoReturn

from qbridge_core.contract.registry import how_to_install


def main() -> NoReturn:
    """Run the command with the arguments of this process, and end it with the exit code."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        sys.stderr.write(f"qbridge: the command line needs {' and '.join(missing)}; {how_to_install('cli')}\n")
        sys.exit(2)
    from qbridge_core.cli.program import qbridge

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show ends no command
    qbridge(prog_name="qbridge")
    raise AssertionError("click ends the process")
