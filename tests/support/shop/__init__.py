"""Apps for tests, which child processes can import."""
