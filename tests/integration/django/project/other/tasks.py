"""Tasks of another App than the project's."""

from qbridge_core import App

app = App()
app.queue("emials", max_workers=1)


@app.task(queue="emails")
def mail(to: str) -> None:
    """Do nothing."""
