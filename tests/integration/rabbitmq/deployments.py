"""Several RabbitMQ nodes that belong together: a cluster."""

from __future__ import annotations

import re
from pathlib import Path

from support.brokers import PortMapper, RabbitMQBroker
from support.wait import wait_for


class Cluster:
    """Nodes that find each other while they boot, each killed, started and cut off as a test wants."""

    def __init__(self, base_dir: Path, size: int = 3) -> None:
        self._mapper = PortMapper(base_dir / "mapper")
        self.nodes = [RabbitMQBroker(base_dir / f"node-{n}", self._mapper) for n in range(size)]
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [f"cluster_formation.classic_config.nodes.{n} = {node.node}" for n, node in enumerate(self.nodes, 1)]
        for node in self.nodes:
            with (node.base_dir / "rabbitmq.conf").open("a") as settings:
                settings.write("\n".join(lines) + "\n")

    def start(self) -> None:
        """Start all nodes and wait until they are one cluster."""
        self._mapper.start()
        self.repair()

    def close(self) -> None:
        """End all."""
        for node in self.nodes:
            node.close()
        self._mapper.close()

    @staticmethod
    def cut_off(node: RabbitMQBroker) -> None:
        """Part a node from the others, until it starts anew; clients still reach all of them."""
        node.evaluate("[{erlang:set_cookie(N, other), erlang:disconnect_node(N)} || N <- nodes()].")

    @property
    def url(self) -> str:
        """The URL that names all nodes."""
        return self.url_of(*self.nodes)

    def repair(self) -> None:
        """Start the nodes that do not run, and wait until all are one cluster again."""
        for node in self.nodes:
            if not node.running:
                node.spawn()
        for node in self.nodes:
            node.wait_until_ready()
        wait_for(self.is_complete, 60, "the nodes do not come together", interval=0.2)

    def url_of(self, *nodes: RabbitMQBroker) -> str:
        """The URL that names some nodes."""
        return f"amqp://guest:guest@{','.join(f'{node.host}:{node.port}' for node in nodes)}/"

    def is_complete(self) -> bool:
        """Whether the nodes know each other, and all of them run."""
        return self.running_as_seen_by(self.nodes[0]) == {node.node for node in self.nodes}

    def leader(self, queue: str) -> RabbitMQBroker:
        """The node that has the leader of a quorum queue."""
        (leader,) = self._members(queue, "leader")
        return next(node for node in self.nodes if node.node == leader)

    def is_replicated(self, queue: str) -> bool:
        """Whether a member of a quorum queue is on each node, and up."""
        return self._members(queue, "online") == {node.node for node in self.nodes}

    def _members(self, queue: str, role: str) -> set[str]:
        asked = next(node for node in self.nodes if node.running)
        return _names(
            asked.evaluate(
                f"""{{ok, Queue}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),
                rabbit_amqqueue:info(Queue, [{role}])."""
            )
        )

    @staticmethod
    def running_as_seen_by(node: RabbitMQBroker) -> set[str]:
        """The names of the nodes that one of them counts as running."""
        return _names(node.evaluate("rabbit_mnesia:cluster_nodes(running)."))


def _names(text: str) -> set[str]:
    return set(re.findall(r"'(qbridge-\d+@localhost)'", text))
