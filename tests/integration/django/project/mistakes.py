"""The settings of somebody who makes mistakes."""

from settings import *  # noqa: F403

QBRIDGE_URL = None
INSTALLED_APPS = [*INSTALLED_APPS, "other"]  # noqa: F405
TASKS = {
    "default": {**TASKS["default"], "OPTIONS": {"url": "memory://"}},  # noqa: F405
    "loop": {**TASKS["loop"], "OPTIONS": {"url": "memory://"}},  # noqa: F405
    "children": {**TASKS["children"], "OPTIONS": {"url": "memory://"}},  # noqa: F405
    "no url": {"BACKEND": BACKEND},  # noqa: F405
    "no scheme": {"BACKEND": BACKEND, "OPTIONS": {"url": "nothing://here"}},  # noqa: F405
    "no option": {"BACKEND": BACKEND, "OPTIONS": {"url": "memory://", "max_retrys": 1}},  # noqa: F405
    "no value": {"BACKEND": BACKEND, "OPTIONS": {"url": "memory://", "task_timeout": -1}},  # noqa: F405
    "no queue": {"BACKEND": BACKEND, "QUEUES": [], "OPTIONS": {"url": "memory://"}},  # noqa: F405
}
