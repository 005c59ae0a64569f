"""Run very many tasks through one worker process, and prove that nothing grows and nothing is left behind.

``make soak`` runs it; ``python -m soak --help`` (with ``tests`` on PYTHONPATH) names the options.

* :mod:`soak.plan` says what each task does and what must become of it: a function of its number, so that a million of
  them need no list.
* :mod:`soak.worker_program` and :mod:`soak.publisher_program` are two processes. The worker appends a record to a
  journal at the end of each run; the publisher reads its size and keeps a limited backlog.
* :mod:`soak.run` starts them, samples the worker through ``/proc`` and looks at what the broker holds at the end.
* :mod:`soak.judge` compares plan, journal, samples and remains, and knows nothing of brokers and processes.
* :mod:`soak.report` shows the outcome.
"""
