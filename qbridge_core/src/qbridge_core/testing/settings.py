"""The settings of the suite: what a backend says of itself, its broker and its patience."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Self

WAIT = 10.0


class Settings:
    """Class attributes of the suite; override what your backend needs.

    Attributes:
        url: the broker's URL; override the ``broker_url`` fixture instead when a fixture of yours makes it.
        options: options for ``connect``; choose short leases and timeouts so that the suite is quick.
        wait: seconds after which a test gives up on what should happen at once; raise it for a slow broker.
        counting_timeout: seconds within which ``stats`` becomes right, where ``exact_stats`` is not claimed.
        redelivery_timeout: seconds within which the tasks of a killed process are delivered again.
        lease: seconds after which the broker takes back what a client no longer renews; the suite holds a delivery for
            longer. When it is not set, the option ``lease`` counts, if there is one.
        lease_options: which of ``options`` shorten leases; left out where a test wants a long one.
        outage_timeout: seconds within which each call must end, in whatever way, while the broker is away or silent.
        outage_options: options that shorten timeouts, for the tests with a broker that is away or silent.
        largest_message: bytes; up to this size the suite looks for the limit of what ``publish`` takes.
        proxied: False when a client cannot go through a TCP proxy (see ``link``), as the broker sends it elsewhere.
    """

    url: ClassVar[str] = ""
    options: ClassVar[Mapping[str, Any]] = {}
    wait: ClassVar[float] = WAIT
    counting_timeout: ClassVar[float] = 60.0
    redelivery_timeout: ClassVar[float] = 60.0
    lease: ClassVar[float | None] = None
    lease_options: ClassVar[Collection[str]] = ("lease",)
    outage_timeout: ClassVar[float] = 20.0
    outage_options: ClassVar[Mapping[str, Any]] = {}
    largest_message: ClassVar[int] = 2 * 2**20
    proxied: ClassVar[bool] = True

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """This suite with other options."""
        variant = copy.copy(self)
        vars(variant)["options"] = options
        return variant

    @property
    def patient_options(self) -> dict[str, object]:
        """The options without those that shorten leases."""
        return {name: value for name, value in self.options.items() if name not in self.lease_options}

    @property
    def lease_seconds(self) -> float | None:
        """How long the broker lends a message to a client that does not renew it; None when nothing says so."""
        lease = self.lease
        if lease is None:
            given = self.options.get("lease")
            lease = float(given) if isinstance(given, int | float) else None
        if lease is None or lease <= 0:
            return None
        assert lease <= 30, "set a short lease in options: the suite holds a delivery for longer than that"
        return lease
