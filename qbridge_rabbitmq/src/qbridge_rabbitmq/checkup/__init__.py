"""What a client finds out about its server and its queues for those who look for what will hurt them."""
