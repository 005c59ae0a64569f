"""Requests to Amazon SQS: each is made once, throttling is waited out, and a refusal is one of QBridge's errors."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    PartialCredentialsError,
)

from qbridge_core.backend import (
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    GrowingPause,
    MessageTooLargeError,
    PermanentError,
    QBridgeError,
    UnroutableError,
    monotonic,
)
from qbridge_kombu.transports.sqs_region import doubt

_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_SERVERS_FAULT: Final = 500
_TOO_MANY: Final = 429
_MISSING: Final = {"NonExistentQueue", "QueueDoesNotExist"}
_TOO_LONG: Final = {"BatchRequestTooLong", "MessageTooLong"}
_JUST_NOW: Final = {"QueueDeletedRecently"}
_BUSY: Final = {
    "KmsThrottled",
    "OverLimit",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "TooManyRequestsException",
}
_DENIED: Final = {"AccessDenied", "AccessDeniedException"}
_NOT_ALLOWED: Final = _DENIED | {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSecurityToken",
    "KmsAccessDenied",
    "MissingAuthenticationToken",
    "NotAuthorized",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}


class Service:
    """A client of boto3's, and how requests are made with it. Thread-safe.

    Args:
        client: the client, which must not repeat anything itself.
        patience: seconds for which throttling is waited out, unless told otherwise: callers must still hear of it.
    """

    def __init__(self, client: Any, patience: float) -> None:
        self._client = client
        self._patience = patience

    def look(self) -> None:
        """See that the service answers and knows the credentials; to list queues is a right that few have.

        Raises:
            AuthenticationError: it does not know them.
        """
        try:
            self._client.list_queues(MaxResults=1)
        except ClientError as exc:
            code = _code(exc)
            if code in _DENIED:
                return
            error = _refusal(exc, code, "reach the service")
            if error is None:
                raise
            raise error from exc

    def ask(self, request: str, doing: str, seconds: float | None = None, **arguments: Any) -> Any:
        """Make a request. One that is throttled was not carried out: it is made again, after a growing pause.

        Args:
            request: the name of the client's method.
            doing: what it is, for errors.
            seconds: how long throttling may go on.
            arguments: those of the request.

        Raises:
            UnroutableError, AuthenticationError, MessageTooLargeError, PermanentError: the service refuses it.
            BrokerUnavailableError: it throttles requests for too long; nothing was carried out.
            Anything of botocore's: nobody knows what the service has done.
        """
        deadline = monotonic() + (self._patience if seconds is None else seconds)
        pause = _pause()
        while True:
            try:
                return getattr(self._client, request)(**arguments)
            except ClientError as exc:
                code = _code(exc)
                if not _is_busy(exc, code):
                    error = _refusal(exc, code, doing)
                    if error is None:
                        raise
                    raise error from exc
                wait, left = pause.next(), deadline - monotonic()
                if wait >= left:
                    raise BrokerUnavailableError(f"cannot {doing}: the service throttles requests ({code})") from exc
            threading.Event().wait(wait)

    def ask_for_each(
        self, request: str, doing: str, queue_url: str, entries: Sequence[dict[str, Any]], seconds: float | None = None
    ) -> list[dict[str, Any]]:
        """Make a request with up to ten entries; those that fail and are not to blame are sent again.

        Returns:
            Failures that would not end, as the service describes them: each with its entry's ``Id``, and a ``Code``.

        Raises:
            As :meth:`ask`; so after a while is what should end and does not.
        """
        deadline = monotonic() + (self._patience if seconds is None else seconds)
        pause = _pause()
        lasting: list[dict[str, Any]] = []
        while True:
            left = max(0.0, deadline - monotonic())
            failed = self.ask(request, doing, left, QueueUrl=queue_url, Entries=entries).get("Failed", ())
            passing = {each["Id"]: each for each in failed if _passes(each)}
            lasting += [each for each in failed if each["Id"] not in passing]
            if not passing:
                return lasting
            wait = pause.next()
            if wait >= deadline - monotonic():
                code = next(iter(passing.values())).get("Code")
                text = f"cannot {doing}: the service does not take {len(passing)} of {len(entries)} ({code})"
                raise BrokerUnavailableError(text)
            threading.Event().wait(wait)
            entries = [entry for entry in entries if entry["Id"] in passing]


def entry_error(failure: Mapping[str, Any], doing: str) -> QBridgeError:
    """The error for an entry that will always fail."""
    code, text = last_part(failure.get("Code")), failure.get("Message", "")
    kind = MessageTooLargeError if code in _TOO_LONG or _is_too_long(text) else PermanentError
    return kind(f"cannot {doing}: the service refuses it ({code}): {text}")


def meaning(exc: Exception, doing: str, region: str | None = None) -> QBridgeError | None:
    """What an error of botocore's means; None for one that says nothing but that the service was not reached.

    Args:
        exc: the error.
        doing: what could not be done.
        region: Amazon's region that was asked for, which may not exist.
    """
    if isinstance(exc, ClientError):
        return _refusal(exc, _code(exc), doing)
    if isinstance(exc, NoCredentialsError | PartialCredentialsError):
        return AuthenticationError(
            f"cannot {doing}: no credentials were found; give them in the URL, or set them up as boto3 looks for them"
        )
    if isinstance(exc, InvalidRegionError):
        return ConfigurationError(f"cannot {doing}: {exc}")
    if isinstance(exc, BotoCoreError):
        hint = doubt(region) if isinstance(exc, EndpointConnectionError) else ""
        return BrokerUnavailableError(f"cannot {doing}: {type(exc).__name__}: {exc}{hint}")
    return None


def last_part(code: object) -> str:
    """A code without the name of the service that stands before it in the older protocol."""
    return str(code).rpartition(".")[2]


def _pause() -> GrowingPause:
    return GrowingPause(_FIRST_PAUSE, _LONGEST_PAUSE, jitter=(0.5, 1.0))


def _passes(failure: Mapping[str, Any]) -> bool:
    """Whether an entry would be taken some other time."""
    return not failure.get("SenderFault") or last_part(failure.get("Code")) in _BUSY


def _code(exc: ClientError) -> str:
    return last_part(exc.response.get("Error", {}).get("Code"))


def _is_busy(exc: ClientError, code: str) -> bool:
    return code in _BUSY or exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == _TOO_MANY


def _refusal(exc: ClientError, code: str, doing: str) -> QBridgeError | None:
    text = " ".join(str(exc.response.get("Error", {}).get("Message", "")).split())
    if code in _MISSING:
        return UnroutableError(f"cannot {doing}: the queue does not exist; declare it first")
    if code in _NOT_ALLOWED:
        return AuthenticationError(f"cannot {doing}: the service does not allow it ({code}): {text}")
    if code in _TOO_LONG or _is_too_long(text):
        return MessageTooLargeError(f"cannot {doing}: {text}")
    if code in _JUST_NOW:
        return BrokerUnavailableError(f"cannot {doing}: {text}")
    if exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", _SERVERS_FAULT) >= _SERVERS_FAULT:
        return None
    return PermanentError(f"cannot {doing}: the service refuses it ({code}): {text}")


def _is_too_long(text: str) -> bool:
    return "must be shorter than" in text
