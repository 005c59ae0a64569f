"""A shop whose mails, thumbnails and webhooks are tasks: ``tasks.py`` has them, ``orders.py`` sends them.

``business.py`` is what they do. ``celery_twin.py`` and ``dramatiq_twin.py`` are the other two with those libraries.
"""
