"""kombu's filesystem transport: a folder of files, one a message."""

from __future__ import annotations

import itertools
import json
import os
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from qbridge_core.backend import NO_HEADERS, BrokerURL, ConfigurationError, OptionReader
from qbridge_kombu.options import option_text
from qbridge_kombu.protocol.messages import Outgoing, Received, prepared
from qbridge_kombu.protocol.names import encoded
from qbridge_kombu.transports.base import DETAILS
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.virtual import VirtualTransport, received

_SUFFIX: Final = ".msg"
_MARK: Final = ".qbridge-queue"
_LONGEST_NAME: Final = 150  # of the 255 bytes that a file may have, the time, a UUID and the suffixes need 70
_sequence: Final = itertools.count()


class FilesystemTransport(VirtualTransport):
    """``kombu+filesystem:///folder``: messages in ``folder/messages``, what exists in ``folder/control``.

    With ``data_folder_in``, ``data_folder_out`` and ``control_folder`` the folders of somebody else's program.
    """

    capabilities = replace(
        VirtualTransport.capabilities, browse=True, exact_stats=True, details=DETAILS | {"oldest_age"}, pause=True
    )
    options: ClassVar[Mapping[str, OptionReader]] = {
        "data_folder_in": option_text, "data_folder_out": option_text, "control_folder": option_text,
    }  # fmt: skip

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        root = f"/{url.path}" if url.path else None
        if url.host:
            raise ConfigurationError(f"{url.scheme}:// takes a folder and no host: {url.scheme}:///var/spool/jobs")
        if root is None and not all(name in options for name in self.options):
            raise ConfigurationError(
                f"{url.scheme}:// needs a folder, as in {url.scheme}:///var/spool/jobs, or the options "
                f"{', '.join(sorted(self.options))}"
            )
        messages, control = os.path.join(root or "", "messages"), os.path.join(root or "", "control")
        self._folders = {
            "data_folder_in": options.get("data_folder_in", messages),
            "data_folder_out": options.get("data_folder_out", messages),
            "control_folder": options.get("control_folder", control),
        }

    def connection_arguments(self) -> Mapping[str, Any]:
        """The folders."""
        return {"hostname": None, "transport": "filesystem", "transport_options": dict(self._folders)}

    def connected(self, session: KombuSession) -> None:
        """Make the folders where they are missing."""
        for folder in self._folders.values():
            os.makedirs(folder, exist_ok=True)

    def name_of(self, queue: str) -> str:
        """What can be a part of a file's name."""
        return encoded(queue, allowed=r"\w.@=+,-", escape="%", most=_LONGEST_NAME)

    def exists(self, session: KombuSession, name: str) -> bool:
        """Whether somebody has declared it, or a message for it is there."""
        return self._mark(name).exists() or next(self._files(name), None) is not None

    def create(self, session: KombuSession, name: str) -> None:
        """kombu's transport knows no queues but by their messages, so leave a mark."""
        self._mark(name).touch()
        self.known(session).add(name)

    def put(self, session: KombuSession, name: str, message: Outgoing) -> None:
        """Write a file under another name first: kombu's own way shows it to consumers before it is written.

        Files are read in the order of their names. kombu's begin with milliseconds since the start of the machine; a
        number after that keeps those of one process in order.
        """
        payload = prepared(session.channel, message)
        session.channel._inplace_augment_message(payload, "", name)
        folder = self._folders["data_folder_out"]
        milliseconds = round(time.clock_gettime(time.CLOCK_MONOTONIC) * 1000)
        stem = f"{milliseconds}_{next(_sequence):012d}-{uuid.uuid4().hex[:20]}"
        hidden, final = os.path.join(folder, f"{stem}.tmp"), os.path.join(folder, f"{stem}.{name}{_SUFFIX}")
        try:
            with open(hidden, "w", encoding="utf-8") as file:
                json.dump(payload, file)
            os.rename(hidden, final)
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden)
            raise

    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Take the first files. The folder is listed again when all of the last list are taken, not for each one."""
        self.require(session, name)
        listed: deque[str] = session.notes.setdefault(name, deque())
        taken: list[Received] = []
        if not listed:
            listed.extend(sorted(self._files(name)))
        while listed and len(taken) < count:
            with suppress(FileNotFoundError):  # somebody else was quicker
                taken.append(self._take(session, listed.popleft()))
        return taken

    def _take(self, session: KombuSession, file: str) -> Received:
        """Rename a file, which one consumer can only, then read and delete it."""
        shown = os.path.join(self._folders["data_folder_in"], file)
        hidden = os.path.join(self._folders["data_folder_in"], f"{uuid.uuid4().hex}.taken")
        os.rename(shown, hidden)
        text = Path(hidden).read_bytes()
        os.unlink(hidden)
        try:
            return received(session.channel, json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Received(text, NO_HEADERS, {})  # no message of kombu's: for the worker to call malformed

    def peek(self, session: KombuSession, name: str, limit: int) -> list[Received]:
        """Read the first files."""
        found: list[Received] = []
        for file in sorted(self._files(name)):
            if len(found) >= limit:
                break
            with suppress(FileNotFoundError):  # somebody has received it
                text = Path(self._folders["data_folder_in"], file).read_text(encoding="utf-8")
                found.append(received(session.channel, json.loads(text)))
        return found

    def oldest_age(self, session: KombuSession, name: str) -> float:
        """By the time at which the first file was written."""
        for file in sorted(self._files(name)):
            with suppress(FileNotFoundError):  # somebody has received it
                written = os.stat(os.path.join(self._folders["data_folder_in"], file)).st_mtime
                return max(0.0, time.time() - written)
        return 0.0

    def names(self, session: KombuSession) -> list[str]:
        """Those that have left a mark."""
        marks = os.listdir(self._folders["control_folder"])
        return [mark.removesuffix(_MARK) for mark in marks if mark.endswith(_MARK)]

    def _files(self, name: str) -> Iterator[str]:
        wanted = f"{name}{_SUFFIX}"
        return (file for file in os.listdir(self._folders["data_folder_in"]) if file.partition(".")[2] == wanted)

    def _mark(self, name: str) -> Path:
        return Path(self._folders["control_folder"], f"{name}{_MARK}")
