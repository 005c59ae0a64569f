"""``python -m qbridge_core`` is the command ``qbridge``."""

from qbridge_core.cli.entry import main

if __name__ == "__main__":
    main()
