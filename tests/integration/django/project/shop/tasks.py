"""Tasks of Django and of an App."""

import asyncio
import os
import threading

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections
from django.dispatch import receiver

from qbridge_core import App
from shop.models import Note

if django.VERSION >= (6, 0):
    from django.tasks import task
    from django.tasks.signals import task_finished
else:
    from django_tasks import task
    from django_tasks.signals import task_finished

MAILS, LOOP = f"{settings.PREFIX}mails", f"{settings.PREFIX}loop"
app = App()
app.queue(f"{settings.PREFIX}images", executor="process", max_workers=1)
app.queue(f"{settings.PREFIX}native", max_workers=1)
seen = []
"""What tasks have left for the tests, in this process."""


def note(text):
    """Write what has happened, and in which process."""
    Note.objects.create(text=f"{text} {os.getpid()}")


@task(queue_name=MAILS)
def mail(to, *, subject="hello", fail=False):
    """Write a mail."""
    seen.append((to, subject))
    if fail:
        raise LookupError(to)
    note(f"mail {to} {subject}")
    return to


@task(queue_name=MAILS, takes_context=True)
def attempts(context):
    """Fail the first time."""
    seen.append((context.attempt, context.task_result))
    if context.attempt == 1:
        raise LookupError("once")


@task(queue_name=MAILS)
async def mail_in_thread(to):
    """A coroutine beside functions."""
    await Note.objects.acreate(text=f"mail {to} in {threading.current_thread().name}")


@task(backend="loop", queue_name=LOOP)
async def together(name):
    """A query in a thread of the run's own, while others run."""
    await Note.objects.acreate(text=f"together {name}")
    await asyncio.sleep(0.1)
    seen.append(await sync_to_async(lambda: (threading.current_thread(), connections["default"]))())
    return name


@task(backend="children", queue_name=f"{settings.PREFIX}children")
def in_child(what):
    """In a child process."""
    note(f"child {what}")
    if what == "bad":
        raise LookupError(what)


@receiver(task_finished)
def finished(sender, task_result, **kwargs):
    """Tell of what has failed."""
    if task_result.status == "FAILED" and task_result.task.name == "in_child":
        [error] = task_result.errors
        note(f"failed {error.exception_class.__name__}")


@app.task(queue=f"{settings.PREFIX}images", max_retries=0)
def draw(path: str) -> None:
    """In a child process."""
    note(f"draw {path}")


@app.task(queue=f"{settings.PREFIX}native", max_retries=0)
def count(what: str) -> None:
    """In a thread."""
    connection = connections["default"]
    seen.append((connection.connection, len(connection.queries_log)))
    note(f"count {what}")
    seen.append(connection)
