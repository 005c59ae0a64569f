"""The table of the notes."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As Django makes it."""

    operations = [
        migrations.CreateModel(
            "Note", [("id", models.BigAutoField(primary_key=True)), ("text", models.CharField(max_length=200))]
        )
    ]
