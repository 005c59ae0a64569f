"""One profile for the property tests: a loaded machine is no failure, and nothing is written to the tree."""

from hypothesis import settings

settings.register_profile("qbridge", deadline=None, database=None, max_examples=100)
settings.load_profile("qbridge")
