"""What a backend says that it can do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do beyond the abstract methods. What is not claimed raises ``UnsupportedError``.

    Claim what holds, no more and no less: the suite looks at both.

    Attributes:
        delay: ``publish``, ``send`` and ``reject`` accept ``delay > 0``; the broker holds the message.
        max_delay: the longest delay in seconds that the broker can hold; a longer one is a ``ConfigurationError``.
        browse: ``dead_letters`` lists a dead-letter queue without consuming it.
        letters: each letter that ``dead_letters`` lists has an ``id``, and ``after`` goes on behind one; ``replay`` and
            ``delete_letters`` take those that are named. It needs ``browse``.
        purge_delayed: ``purge(queue, delayed=True)`` deletes what is delayed. It needs ``delay``.
        browse_delayed: ``delayed`` lists what is delayed, each message with an ``id`` and the time when it is due;
            ``release_delayed`` and ``delete_delayed`` take those that are named. It needs ``delay``.
        pause: ``pause`` and ``resume`` work, ``paused`` and each count tell which queues are paused, and workers ask.
        crashes: ``Delivery.crashes`` counts the worker processes that died with the message, or ``Delivery.suspected``
            says that one may have, and ``crashes`` counts those that die with it when it runs alone; see there. It
            needs ``shared``: else a broker dies with the only process that knows it.
        durable: confirmed messages survive a restart of the broker, as do retries, delayed messages and letters.
        shared: other processes see the same queues. Without it a broker lives in its clients' process.
        instant_ack: ``ack`` never waits for the broker, nor for a lock that is held for longer than a computation, also
            while the connection is lost: it notes the acknowledgement, and a thread of the client sends it. An event
            loop may call it then. Without it ``async def`` handlers have theirs called in a thread.
        redelivers: what a client held when its process died is delivered again. Without it that is lost, as on brokers
            that forget a message when they hand it out.
        ordered: messages of one publisher are delivered in the order of publishing, as far as nothing is handed back;
            letters are listed and replayed in theirs.
        imports: ``import_letters`` puts letters into a dead-letter queue as they lie in another one.
        exact_stats: counts are exact, and at once what was published and settled before. Without it they are estimates
            that become right in time; ``replay`` and ``run_until_idle`` go by them, and may leave something.
        diagnoses: ``diagnose`` looks at the broker and at queues for what bites people.
        details: the fields of ``QueueStats`` beyond the counts that ``describe`` fills in for each queue; of ``dead``,
            ``consumers`` and ``oldest_age`` those that ``stats`` fills in, too.
        queues: ``queues`` lists the queues, at least those that this client has declared.
        sent_at: ``Delivery.sent_at`` and ``DeadLetter.sent_at`` tell when a message was published, to the second at
            least, and ``Delivery.due_at`` from when on a delayed one, or one for another attempt, may run. Retries,
            delays, hand-backs, letters and replays carry that on. Without it they may be ``None``.
        history: what ``Failure.history`` and ``Delivery.record`` say of earlier attempts is carried on likewise, but
            where there is no room for it. Without it ``history`` may lack some, or all.
    """

    delay: bool = False
    max_delay: float = float("inf")
    browse: bool = False
    crashes: bool = False
    durable: bool = False
    shared: bool = False
    instant_ack: bool = False
    redelivers: bool = True
    ordered: bool = True
    exact_stats: bool = True
    letters: bool = False
    diagnoses: bool = False
    details: frozenset[str] = frozenset()
    queues: bool = False
    sent_at: bool = False
    history: bool = False
    purge_delayed: bool = False
    browse_delayed: bool = False
    pause: bool = False
    imports: bool = False
