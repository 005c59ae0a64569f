"""A RabbitMQ node with its management API and a TLS port, for tests about users, limits, policies and certificates."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trustme

from support.brokers import RabbitMQBroker, free_port
from support.wait import wait_for


class ManagedRabbitMQ(RabbitMQBroker):
    """The node. Its API is quicker than `rabbitmqctl`."""

    def __init__(self, base_dir: Path | str) -> None:
        super().__init__(base_dir)
        self.management_port = free_port()
        self.tls_port = free_port()
        self.authority = str(self.base_dir / "ca.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(self.base_dir / "both.pem"))
        (self.base_dir / "enabled_plugins").write_text("[rabbitmq_management].\n")
        with (self.base_dir / "rabbitmq.conf").open("a") as settings:
            settings.write(
                f"management.tcp.port = {self.management_port}\nmanagement.tcp.ip = {self.host}\n"
                f"listeners.ssl.default = {self.host}:{self.tls_port}\nssl_options.cacertfile = {self.authority}\n"
                f"ssl_options.certfile = {self.base_dir}/both.pem\nssl_options.keyfile = {self.base_dir}/both.pem\n"
            )

    @property
    def management_url(self) -> str:
        """Where the API is."""
        return f"http://{self.host}:{self.management_port}"

    def is_ready(self) -> bool:
        """Whether the node begins an AMQP handshake and its API answers."""
        if not super().is_ready():
            return False
        try:
            return bool(self.api("GET", "overview"))
        except OSError:
            return False

    def api(self, method: str, path: str, body: object = None) -> Any:
        """Call the API as the administrator."""
        request = urllib.request.Request(
            f"{self.management_url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def url_for(self, user: str = "guest:guest", vhost: str = "/", port: int | None = None) -> str:
        """The AMQP URL of a user and a virtual host."""
        return f"amqp://{user}@{self.host}:{port or self.port}/{quote(vhost, safe='')}"

    def add_user(self, name: str, configure: str = "^$", write: str = "^$", read: str = "^$") -> str:
        """Make a user with these permissions in the virtual host "/", and return its AMQP URL."""
        self.api("PUT", f"users/{name}", {"password": "x", "tags": ""})
        permissions = {"configure": configure, "write": write, "read": read}
        self.api("PUT", f"permissions/%2F/{name}", permissions)
        return self.url_for(f"{name}:x")

    def add_vhost(self, name: str) -> str:
        """Make a virtual host for the user guest, and return its AMQP URL."""
        self.api("PUT", f"vhosts/{quote(name, safe='')}")
        self.api("PUT", f"permissions/{quote(name, safe='')}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
        return self.url_for(vhost=name)

    def set_policy(self, name: str, pattern: str, definition: dict[str, Any], kind: str = "policies") -> None:
        """Make a policy (or an operator policy) in the virtual host "/"."""
        self.api("PUT", f"{kind}/%2F/{name}", {"pattern": pattern, "definition": definition, "apply-to": "queues"})

    def close_connections(self) -> None:
        """Close all of them, as an administrator would."""
        for connection in wait_for(lambda: self.api("GET", "connections"), 20, "the API knows of no connection"):
            self.api("DELETE", f"connections/{quote(connection['name'], safe='')}")
