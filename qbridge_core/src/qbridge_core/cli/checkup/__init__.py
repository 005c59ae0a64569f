"""What ``qbridge doctor`` looks at beside the broker, and how it tells of all that it has found."""
