"""What tasks write."""

from django.db import models


class Note(models.Model):
    """What has happened."""

    text = models.CharField(max_length=200)
