"""A complete third-party backend: a broker in a process of its own that lends messages for a time (leases).

Written from the guide alone. What its messages are lent for is renewed while the client lives; a lease that ends is
taken for the death of its client. What is handed back goes to the *end* of its queue, unlike in our own backends.

`store`, `server`: the broker. `client`, `wire`: the backend. `broker`: the process, for tests that stop or kill it.
"""
