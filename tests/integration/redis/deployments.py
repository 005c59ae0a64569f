"""Several Redis servers that belong together: a master with replicas and sentinels, and a cluster."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.brokers import BrokerError, RedisBroker, RedisReply, find_program, free_port
from support.wait import wait_for

SERVICE = "mymaster"


class Node(RedisBroker):
    """A server with settings of its own."""

    def __init__(self, base_dir: Path | str, **settings: str | int) -> None:
        super().__init__(base_dir)
        self.settings = settings

    def _server_command(self) -> list[str]:
        command = super()._server_command()
        for name, value in self.settings.items():
            command += [f"--{name.replace('_', '-')}", *str(value).split()]
        return command

    @property
    def role(self) -> str:
        """What the server takes itself for: "master" or "slave", and "" when it does not answer."""
        try:
            reply = self.cli("ROLE")
        except (OSError, BrokerError):
            return ""
        return str(reply[0]) if isinstance(reply, list) else ""


class Sentinel(RedisBroker):
    """A sentinel; it rewrites its file of settings, so it gets one of its own."""

    def __init__(self, base_dir: Path | str, master: RedisBroker, password: str = "") -> None:
        super().__init__(base_dir)
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.base_dir}",
            f"sentinel monitor {SERVICE} {master.host} {master.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} 1000",
            f"sentinel failover-timeout {SERVICE} 5000",
        ]
        if password:
            lines.append(f"requirepass {password}")
        self._settings = self.base_dir / "sentinel.conf"
        self._settings.write_text("\n".join(lines) + "\n")

    def _server_command(self) -> list[str]:
        return [super()._server_command()[0], str(self._settings), "--sentinel"]


class Watched:
    """One master, two replicas, and three sentinels that watch them."""

    def __init__(self, base_dir: Path) -> None:
        master = Node(base_dir / "node-0", repl_diskless_sync_delay=0)
        replica = {"replicaof": f"{master.host} {master.port}", "repl_diskless_sync_delay": 0}
        self.nodes = [master, *(Node(base_dir / f"node-{n}", **replica) for n in (1, 2))]
        self.sentinels = [Sentinel(base_dir / f"sentinel-{n}", master) for n in range(3)]

    def start(self) -> None:
        """Start all and wait until the sentinels know each other and both replicas."""
        for server in (*self.nodes, *self.sentinels):
            server.spawn()
        for server in (*self.nodes, *self.sentinels):
            server.wait_until_ready()
        wait_for(lambda: all(map(self._is_informed, self.sentinels)), 30, "the sentinels do not find each other")

    def close(self) -> None:
        """End all."""
        for server in (*self.sentinels, *self.nodes):
            server.close()

    @property
    def url(self) -> str:
        """The URL that names the sentinels."""
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def master(self) -> Node:
        """The server that the first sentinel calls the master."""
        reply = self.sentinels[0].cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        assert isinstance(reply, list)
        return next(node for node in self.nodes if str(node.port) == reply[1])

    def promoted(self, old: Node) -> Node | None:
        """The server that took the place of another one, once it has."""
        return next((node for node in self.nodes if node is not old and node.role == "master"), None)

    @staticmethod
    def _is_informed(sentinel: Sentinel) -> bool:
        reply = sentinel.cli("SENTINEL", "MASTER", SERVICE)
        assert isinstance(reply, list)
        facts = dict(zip(reply[::2], reply[1::2], strict=True))
        return facts["num-slaves"] == "2" and facts["num-other-sentinels"] == "2" and facts["flags"] == "master"


class Cluster:
    """Nodes of a Redis Cluster: three masters, and as many replicas of each as asked for."""

    def __init__(self, base_dir: Path, replicas: int = 0, **more: str) -> None:
        settings = {"cluster_enabled": "yes", "cluster_node_timeout": 1500, "repl_diskless_sync_delay": 0, **more}
        self.replicas = replicas
        self.nodes = [
            Node(base_dir / f"node-{n}", cluster_port=free_port(), **settings) for n in range(3 * (1 + replicas))
        ]

    def start(self) -> None:
        """Start the nodes, join them and wait until each of them knows who serves what."""
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_until_ready()
        self._create()
        wait_for(lambda: all(map(self._is_complete, self.nodes)), 60, "the cluster does not come together")

    def close(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.close()

    @property
    def url(self) -> str:
        """The URL that names the first three nodes."""
        return "redis+cluster://" + ",".join(f"{node.host}:{node.port}" for node in self.nodes[:3])

    def owner(self, key: str, asked: Node | None = None) -> Node:
        """The master of a key, as some node sees it."""
        asked = asked or next(node for node in self.nodes if node.running)
        slot = asked.cli("CLUSTER", "KEYSLOT", key)
        assert isinstance(slot, int)
        rows = asked.cli("CLUSTER", "SLOTS")
        port = next(row[2][1] for row in rows if row[0] <= slot <= row[1])  # type: ignore[union-attr, index, operator]
        return next(node for node in self.nodes if node.port == port)

    def replica_of(self, master: Node) -> Node:
        """The first replica of a master."""
        reply = master.cli("ROLE")
        port = reply[2][0][1]  # type: ignore[index]
        return next(node for node in self.nodes if str(node.port) == port)

    def cli(self, key: str, *command: str | bytes | int) -> RedisReply:
        """Run a command at the master of a key."""
        return self.owner(key).cli(*command)

    def migrate(self, key: str) -> None:
        """Move the slot of a key from its master to another one, as ``redis-cli --cluster reshard`` does."""
        source = self.owner(key)
        target = next(node for node in self.nodes if node is not source)
        slot = source.cli("CLUSTER", "KEYSLOT", key)
        ids = [node.cli("CLUSTER", "MYID") for node in (source, target)]
        target.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])  # type: ignore[arg-type]
        source.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])  # type: ignore[arg-type]
        while keys := source.cli("CLUSTER", "GETKEYSINSLOT", slot, 100):  # type: ignore[arg-type]
            source.cli("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)  # type: ignore[misc]
        for node in (target, source, *self.nodes):
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[1])  # type: ignore[arg-type]

    def _create(self) -> None:
        program = find_program("redis-cli", "valkey-cli")
        assert program is not None
        addresses = [f"{node.host}:{node.port}" for node in self.nodes]
        command = [program, "--cluster", "create", *addresses, "--cluster-yes"]
        command += ["--cluster-replicas", str(self.replicas)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _is_complete(self, node: Node) -> bool:
        rows = node.cli("CLUSTER", "SLOTS")
        assert isinstance(rows, list)
        served = sum(row[1] - row[0] + 1 for row in rows)  # type: ignore[index, operator, misc]
        attached = all(len(row) == 3 + self.replicas for row in rows)  # type: ignore[arg-type]
        linked = node.role == "master" or "master_link_status:up" in str(node.cli("INFO", "replication"))
        return "cluster_state:ok" in str(node.cli("CLUSTER", "INFO")) and served == 16384 and attached and linked
