"""kombu's transport for Amazon SQS, without what it does behind one's back."""

from __future__ import annotations

from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.loaders import Loader
from botocore.session import Session
from kombu.transport import SQS

_DESCRIPTIONS: Final = Loader()
"""Of the service: each session of botocore's would read and parse them anew."""


class Channel(SQS.Channel):  # type: ignore[misc]  # kombu has no types
    """One that learns the URL of a queue when it is used: listing them is a right of its own, and one request more."""

    def _update_queue_cache(self, queue_name_prefix: str) -> None:
        """Nothing."""

    def new_sqs_client(
        self, region: str, access_key_id: str | None, secret_access_key: str | None, session_token: str | None = None
    ) -> Any:
        """boto3's client; without a key it looks for one in its own places."""
        session = Session()
        session.register_component("data_loader", _DESCRIPTIONS)
        return boto3.Session(
            region_name=region,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            aws_session_token=session_token,
            botocore_session=session,
        ).client(
            "sqs",
            use_ssl=self.is_secure,
            endpoint_url=self.endpoint_url,
            config=Config(**self.transport_options["client-config"]),
        )


class Transport(SQS.Transport):  # type: ignore[misc]
    """One with these channels."""

    Channel = Channel
