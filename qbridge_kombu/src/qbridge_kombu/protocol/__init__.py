"""What QBridge writes into a message of kombu's, and what it reads out of one."""
