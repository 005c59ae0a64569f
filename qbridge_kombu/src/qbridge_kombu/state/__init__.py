"""What the parts of a connected client share."""
