"""Break brokers, connections and workers at random moments, and prove from a history that nothing was lost.

``make chaos`` runs it; ``python -m chaos --help`` (with ``tests`` on PYTHONPATH) names the options. One *cell* is one
backend under one kind of fault:

* :mod:`chaos.plan` says which tasks there are, what must become of each, and which faults come when; all from a seed.
* :mod:`chaos.cell` carries the plan out on a broker of its own, with worker processes that
  :mod:`chaos.supervisor` starts again, :mod:`chaos.publisher` sending all the while and :mod:`chaos.faults` breaking
  things.
* :mod:`chaos.history` is what was seen: one line per start and end of a run, which a SIGKILL cannot take back.
* :mod:`chaos.checker` compares plan and history, and knows nothing of brokers.
* :mod:`chaos.report` shows the outcome.
"""
