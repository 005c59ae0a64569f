"""Many acknowledgements in few frames: ``multiple`` acknowledges all up to a number (rabbitmq.com/docs/confirms)."""

from __future__ import annotations


def batch(finished: set[int], unsettled: dict[int, None]) -> list[tuple[int, bool]]:
    """What to send for the finished deliveries, which are taken out of the unsettled ones.

    One acknowledgement for all that stand before the first delivery that is not finished, and one for each of the
    others.

    Args:
        finished: numbers of deliveries; it is empty afterwards.
        unsettled: those of all deliveries that the broker waits for, ascending.
    """
    prefix = []
    for number in unsettled:
        if number not in finished:
            break
        prefix.append(number)
    acks = []
    if prefix:
        acks.append((prefix[-1], len(prefix) > 1))
        for number in prefix:
            del unsettled[number]
        finished.difference_update(prefix)
    for number in finished:
        unsettled.pop(number, None)
        acks.append((number, False))
    finished.clear()
    return acks
