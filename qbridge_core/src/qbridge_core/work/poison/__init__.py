"""Finds the messages that kill their workers, and keeps them from killing others."""
