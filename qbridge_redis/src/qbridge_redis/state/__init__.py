"""What the parts of a connected client share: its connections, declared queues and deliveries in flight."""
