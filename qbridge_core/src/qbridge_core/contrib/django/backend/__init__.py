"""The backend for ``django.tasks``, the package ``django-tasks`` on older versions of Django."""
