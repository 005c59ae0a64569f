"""Runs a handler on a letter, in this thread, without a worker and without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.executor import is_coroutine_function, refuse_unstarted
from qbridge_core.execute.lifespan import Lifespan, is_synchronous, make
from qbridge_core.task.context import current_run, current_state
from qbridge_core.task.retry import RetryPolicy
from qbridge_core.task.run import Run
from qbridge_core.task.terms import Terms

Handler = Callable[[Any], object]
TERMS: Final = Terms(365 * 86_400.0, RetryPolicy())
"""Nobody ends it, or does anything else about it."""


def run(handler: Handler, lifespan: Lifespan | None, letter: DeadLetter, payload: object) -> object:
    """Call the handler as a worker would, at its first attempt; what it returns, or raises."""
    queue = letter.source_queue
    delivery = Delivery(letter.body, queue, letter.headers, letter.message_id)
    task = Run(delivery, letter.task_id, TERMS)
    if is_coroutine_function(handler):
        return asyncio.run(_run_coroutine(handler, lifespan, task, payload))
    with asyncio.Runner() as runner:  # an async lifespan has a loop, and the handler the main thread
        stack = AsyncExitStack()
        state = runner.run(_enter(stack, lifespan)) if lifespan else None
        try:
            current_run.set(task)
            current_state.set(state)
            result = handler(payload)
            refuse_unstarted(result)
            return result
        finally:
            runner.run(stack.aclose())


async def _run_coroutine(
    handler: Callable[[Any], Any], lifespan: Lifespan | None, task: Run, payload: object
) -> object:
    async with AsyncExitStack() as stack:
        current_state.set(await _enter(stack, lifespan) if lifespan else None)
        current_run.set(task)
        return await handler(payload)


async def _enter(stack: AsyncExitStack, lifespan: Lifespan) -> Any:
    manager: Any = make(lifespan)
    if is_synchronous(manager):
        return stack.enter_context(manager)
    return await stack.enter_async_context(manager)
