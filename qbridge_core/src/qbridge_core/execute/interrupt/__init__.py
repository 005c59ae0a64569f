"""Raises ``HandlerTimeout`` in a thread whose handler runs too long, at a place where that is safe."""
