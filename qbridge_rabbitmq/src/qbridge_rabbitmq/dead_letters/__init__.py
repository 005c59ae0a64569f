"""Listing dead letters and sending them back."""
