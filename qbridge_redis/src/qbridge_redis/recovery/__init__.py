"""Keeps leases alive, and finds deliveries whose worker is gone."""
