"""A shop whose mails, thumbnails and webhooks are tasks: ``tasks.py`` has them, ``orders.py`` sends them."""
