"""QBridge's plugin for pytest: the fixture ``qbridge``.

What pytest loads with each run is :mod:`qbridge_pytest.plugin`; everything else is imported when a test asks for the
fixture.
"""
