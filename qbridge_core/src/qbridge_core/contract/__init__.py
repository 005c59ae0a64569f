"""What QBridge and a backend agree on: the client, its messages, its URL and options, and how a backend is found."""
