"""Ends deliveries: acknowledgements, many at once, and rejections, one atomic step each."""
