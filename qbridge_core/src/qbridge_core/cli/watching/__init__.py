"""What ``qbridge stats`` and ``qbridge top`` show of queues, and how."""
