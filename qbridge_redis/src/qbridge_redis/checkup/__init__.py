"""What a client finds out about its servers and its queues for those who look for what will hurt them."""
