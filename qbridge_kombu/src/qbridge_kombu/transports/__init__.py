"""The brokers that kombu reaches, one module for each kind."""
