"""A shop whose mails, thumbnails and webhooks are tasks.

``tasks.py`` has them, and what sends them; ``business.py`` is what they do. ``celery_twin.py`` and ``dramatiq_twin.py``
are ``tasks.py`` with those libraries.
"""
