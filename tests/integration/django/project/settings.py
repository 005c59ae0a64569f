"""The settings of the project; variables say where its broker and its database are."""

import os

import django

SECRET_KEY = "secret"
PREFIX = os.environ.get("PREFIX", "")
INSTALLED_APPS = ["shop", "qbridge_core.contrib.django"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
DATABASE = os.environ.get("DATABASE", "db.sqlite3")
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATABASE,
        "OPTIONS": {"timeout": 30},
        "TEST": {"NAME": f"{DATABASE}.test"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
QBRIDGE_URL = os.environ.get("URL", "memory://")
BACKEND = "qbridge_core.contrib.django.QBridgeBackend"
TASKS = {
    "default": {
        "BACKEND": BACKEND,
        "QUEUES": [f"{PREFIX}mails", f"{PREFIX}reports"],
        "OPTIONS": {"max_retries": 1, "max_workers": 2, "task_timeout": 20},
    },
    "loop": {"BACKEND": BACKEND, "QUEUES": [f"{PREFIX}loop"], "OPTIONS": {"max_retries": 0}},
    "children": {
        "BACKEND": BACKEND,
        "QUEUES": [f"{PREFIX}children"],
        "OPTIONS": {"max_retries": 0, "executor": "process", "max_workers": 1},
    },
}
