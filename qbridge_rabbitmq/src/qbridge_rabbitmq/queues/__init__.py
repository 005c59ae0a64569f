"""What there is on the broker: queues and their delays, how they are declared, and the policies over them."""
