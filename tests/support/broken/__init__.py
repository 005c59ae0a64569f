"""Clients that break one promise of the contract each; the conformance suite must find every one of them."""
