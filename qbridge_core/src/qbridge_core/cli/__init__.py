"""The command ``qbridge``: workers, queues and dead letters from a terminal. It needs the extra ``cli``.

Its commands and options, what it prints with ``--json``, and its exit codes are stable; its modules are not.
"""
