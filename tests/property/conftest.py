"""One profile for the property tests: a loaded machine is no failure, and nothing is written to the tree.

The examples are the same in each run, so that a change is judged by what it did. To look for more:
``QBRIDGE_PROPERTY_EXAMPLES=20 make test ARGS=tests/property`` draws others, twenty times as many.
"""

from hypothesis import settings

from support.properties import MORE

settings.register_profile("qbridge", deadline=None, database=None, max_examples=100 * MORE, derandomize=MORE == 1)
settings.load_profile("qbridge")
