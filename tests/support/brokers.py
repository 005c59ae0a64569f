"""Private brokers: real RabbitMQ and Redis servers that belong to one test or one test run.

Each server has its own ports, data and log below its `base_dir`, listens on 127.0.0.1 only and ends with the
process that started it (see :mod:`support.guard`). Signals go to the server's own process id, not to a name.
"""

from __future__ import annotations

import glob
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit

from support.wait import wait_for

_GUARD = Path(__file__).with_name("guard.py")
_EXTRA_PATH = "/usr/lib/rabbitmq/bin:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin:/opt/homebrew/bin"
_ERLANG_PLACES = "/usr/lib/erlang/erts-*/bin:/usr/local/lib/erlang/erts-*/bin"
_SETTLING: Final = 10.0
_NOT_YET: Final = "requires the 'rabbit' app to be running"
# A node loads some nine hundred modules while it boots. One by one, as it asks for them, each has it copy its tables of
# all functions: at once they take a third less of the processor. What another version has not is left out.
_APPLICATIONS: Final = (
    "amqp10_common, aten, compiler, credentials_obfuscation, crypto, cuttlefish, enough, gen_batch_server, inets, jsx, "
    "kernel, mnesia, observer_cli, os_mon, osiris, public_key, ra, rabbit, rabbit_common, rabbitmq_prelaunch, ranch, "
    "recon, sasl, seshat, ssl, stdlib, stdout_formatter, syntax_tools, sysmon_handler, syslog, systemd, tools, xmerl"
)
_DELETE: Final = """
    Begins = [%s],
    IsWanted = fun(Queue) ->
        {resource, _, _, Name} = amqqueue:get_name(Queue),
        lists:any(fun(Begin) -> string:prefix(Name, Begin) =/= nomatch end, Begins)
    end,
    Delete = fun() ->
        length([catch rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(), IsWanted(Q)])
    end,
    %s.
"""
_LOAD: Final = f"""
os:unsetenv("ERL_AFLAGS").  % Erlang machines that this one starts, as for its port mapper, need no more than that
code:ensure_modules_loaded([list_to_atom(filename:basename(Beam, ".beam")) ||
    Application <- [{_APPLICATIONS}],
    is_list(code:lib_dir(Application)),
    Beam <- filelib:wildcard(filename:join([code:lib_dir(Application), "ebin", "*.beam"]))]).
"""


class BrokerError(RuntimeError):
    """A server did not start, or a command to it failed."""


def free_port() -> int:
    """Return a port that is free and lies below the range that the kernel gives to outgoing connections.

    A port from that range could be taken while the server is down, and a restart would fail.
    """
    for _ in range(200):
        port = random.randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BrokerError("no free port between 15000 and 32000")


def find_program(*names: str) -> str | None:
    """Return the path of the first of these programs that exists, looking beyond PATH.

    The folder QBRIDGE_TEST_BIN, which chooses other servers, comes first, and then RabbitMQ's own scripts: Debian's
    wrappers in /usr/sbin switch to another user.
    """
    chosen = os.environ.get("QBRIDGE_TEST_BIN")
    path = f"/usr/lib/rabbitmq/bin:{os.environ.get('PATH', '')}:{_EXTRA_PATH}"
    path = f"{chosen}:{path}" if chosen else path
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def find_in_erlang(name: str) -> str | None:
    """Return the path of a program of Erlang's (its port mapper, for one), which is not always on PATH."""
    if found := find_program(name):
        return found
    pattern_hits = (hit for place in _ERLANG_PLACES.split(":") for hit in sorted(glob.glob(f"{place}/{name}")))
    return next(pattern_hits, None)


class Broker:
    """A server that can be killed, stopped, suspended, and started again on the same data and port."""

    boot_timeout: ClassVar[float] = 60.0

    def __init__(self, base_dir: Path | str) -> None:
        self.base_dir = Path(base_dir).absolute()
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.host = "127.0.0.1"
        self.port = free_port()
        self.log_path = self.base_dir / "server.log"
        self._guard: subprocess.Popen[str] | None = None
        self._pid = 0

    @classmethod
    def available(cls) -> bool:
        """Whether the server is installed."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The URL to connect to; it stays the same over restarts."""
        raise NotImplementedError

    def is_ready(self) -> bool:
        """Whether the server answers its own protocol."""
        raise NotImplementedError

    def contents(self) -> dict[str, int]:
        """Everything on the server that can hold messages, and how many it holds, in the server's own words."""
        raise NotImplementedError

    def _server_command(self) -> list[str]:
        raise NotImplementedError

    def _helper(self) -> tuple[list[str], int]:
        return [], 0

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    @property
    def running(self) -> bool:
        """Whether the server's process exists (it may be suspended)."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        if not self.running:
            raise BrokerError(f"the server is not running; its log: {self.log_path}")
        return self._pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.spawn()
        self.wait_until_ready()

    def spawn(self) -> None:
        """Start the server's process without waiting for the server."""
        if self.running:
            raise BrokerError("the server is already running")
        helper, helper_port = self._helper()
        task = {
            "owner": os.getpid(),
            "log": str(self.log_path),
            "helper": helper,
            "helper_port": helper_port,
            "server": self._server_command(),
        }
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(task)],
            cwd=self.base_dir,  # where a crash dump goes
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal reaches the tests, which then end the server
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as output:
            line = output.readline()
        if not line:
            self._reap(10)
            raise BrokerError(f"the server could not be started: {self._log_tail()}")
        self._pid = int(line)

    def wait_until_ready(self, timeout: float | None = None) -> None:
        """Return as soon as the server answers; raise if it ends or the time is over."""

        def ready_or_dead() -> bool:
            if not self.running:
                raise BrokerError(f"the server ended while starting: {self._log_tail()}")
            return self.is_ready()

        timeout = timeout or self.boot_timeout
        wait_for(ready_or_dead, timeout, f"the server is not ready; log: {self.log_path}", interval=0.05)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would, and wait for its end."""
        if self.running:
            os.kill(self._pid, signal.SIGKILL)
        self._reap(10)

    def stop(self, timeout: float = 30.0) -> None:
        """End the server in its regular way and wait for its end."""
        if self.running:
            os.kill(self._pid, signal.SIGCONT)
            os.kill(self._pid, signal.SIGTERM)
        self._reap(timeout)

    def restart(self) -> None:
        """Stop the server and start it again on the same data and port."""
        self.stop()
        self.start()

    def suspend(self) -> None:
        """Freeze the server: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server at once if it still runs, and delete its files."""
        self.kill()
        shutil.rmtree(self.base_dir, ignore_errors=True)

    def _reap(self, timeout: float) -> None:
        if self._guard is not None:
            self._guard.wait(timeout)

    def _log_tail(self) -> str:
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return f"{self.log_path}\n" + "\n".join(text.splitlines()[-20:])


_STARTS = 3


def start_new(kind: type[Broker], base_dir: Path) -> Broker:
    """Start a new server; on other ports when that fails, for other programs draw theirs too."""
    attempt = 1
    while True:
        broker = kind(base_dir)
        try:
            broker.start()
        except BaseException as exc:
            broker.close()
            if attempt == _STARTS or not isinstance(exc, BrokerError):
                raise
        else:
            return broker
        attempt += 1


class Kept:
    """A server that is kept from test to test, whatever they do to it."""

    def __init__(self, kind: type[Broker], base_dir: Path) -> None:
        self._kind = kind
        self._base_dir = base_dir
        self._broker: Broker | None = None

    def up(self) -> Broker:
        """The server, which answers: as it was left, started again, or a new one where that does not help."""
        if self._broker is not None:
            try:
                if self._broker.running:
                    self._broker.resume()
                    self._broker.wait_until_ready(20.0)
                else:
                    self._broker.start()
            except (BrokerError, AssertionError):
                self.close()
        if self._broker is None:
            self._broker = start_new(self._kind, self._base_dir)
        return self._broker

    def close(self) -> None:
        """End it, and delete its files."""
        if self._broker is not None:
            self._broker.close()
            self._broker = None


class PortMapper(Broker):
    """Erlang's port mapper for several nodes, which find each other through it, and the home of their cookie."""

    def __init__(self, base_dir: Path | str) -> None:
        super().__init__(base_dir)
        # Nodes that boot at the same time would each make one.
        cookie = self.base_dir / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(10))
        cookie.chmod(0o400)

    @classmethod
    def available(cls) -> bool:
        """Whether the program is installed."""
        return find_in_erlang("epmd") is not None

    @property
    def url(self) -> str:
        """Its address; nobody connects to it by URL."""
        return f"epmd://{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Whether it listens."""
        try:
            socket.create_connection((self.host, self.port), timeout=2).close()
        except OSError:
            return False
        return True

    def _server_command(self) -> list[str]:
        program = find_in_erlang("epmd")
        if program is None:
            raise BrokerError("epmd is not installed")
        return [program, "-address", self.host, "-port", str(self.port)]


class RabbitMQBroker(Broker):
    """A RabbitMQ node with its own name and data; and its own cookie and port mapper, unless it shares those."""

    def __init__(self, base_dir: Path | str, mapper: PortMapper | None = None) -> None:
        super().__init__(base_dir)
        self.node = f"qbridge-{self.port}@localhost"
        self._distribution_port = free_port()
        self._mapper = mapper
        self._epmd_port = mapper.port if mapper else free_port()
        (self.base_dir / "enabled_plugins").write_text("[].\n")
        # Not into rabbitmq.conf: a node takes a second of each start to translate that.
        (self.base_dir / "advanced.config").write_text("[{rabbit, [{disk_free_limit, 1000000}]}].\n")
        (self.base_dir / "load").write_text(_LOAD)

    @classmethod
    def available(cls) -> bool:
        """Whether the server is installed."""
        return find_program("rabbitmq-server") is not None

    @property
    def url(self) -> str:
        """The AMQP URL; it stays the same over restarts."""
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    def is_ready(self) -> bool:
        """Whether the node begins an AMQP handshake."""
        return amqp_answers(self.url)

    def rabbitmqctl(self, *args: str, timeout: float = 60.0) -> str:
        """Run a rabbitmqctl command on this node and return what it prints."""
        if not self.running:
            # Without its node the command would leave a port mapper behind.
            raise BrokerError("rabbitmqctl needs a running node")
        program = find_program("rabbitmqctl")
        if program is None:
            raise BrokerError("rabbitmqctl is not installed")
        command = [program, "--quiet", "--node", self.node, *args]
        deadline = time.monotonic() + _SETTLING
        while True:
            done = subprocess.run(
                command, env=self._environment(), capture_output=True, text=True, timeout=timeout, check=False
            )
            if done.returncode == 0:
                return done.stdout
            # A node takes connections a moment before it takes commands.
            if _NOT_YET not in done.stderr or time.monotonic() > deadline:
                raise BrokerError(f"rabbitmqctl {' '.join(args)} failed: {done.stdout}{done.stderr}")
            time.sleep(0.1)

    def evaluate(self, expressions: str) -> str:
        """The value of Erlang expressions on this node, much quicker than by `rabbitmqctl`, which starts a machine."""
        program = find_in_erlang("erl_call")
        if program is None:
            return self.rabbitmqctl("eval", expressions)
        environment = self._environment()
        cookie = (Path(environment["HOME"]) / ".erlang.cookie").read_text()
        done = subprocess.run(
            [program, "-n", self.node, "-c", cookie, "-e"],
            env=environment, input=f"{expressions}\n", capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if not done.stdout.startswith("{ok, "):
            raise BrokerError(f"{expressions} failed: {done.stdout}{done.stderr}")
        return done.stdout[len("{ok, ") : -1]

    def put_user(self, name: str, password: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Make or change a user of the virtual host "/"."""
        rights = ", ".join(f"<<{json.dumps(pattern)}>>" for pattern in (configure, write, read))
        self.evaluate(
            f"""User = <<"{name}">>,
            ok = rabbit_auth_backend_internal:put_user(
                #{{name => User, password => <<"{password}">>, tags => <<>>}}, <<"test">>),
            ok = rabbit_auth_backend_internal:set_permissions(User, <<"/">>, {rights}, <<"test">>)."""
        )

    @contextmanager
    def with_settings(self, **values: int) -> Iterator[None]:
        """Have the node use these settings of its application `rabbit`, for what reads them from then on."""
        before = {name: self.evaluate(f"application:get_env(rabbit, {name}, undefined).") for name in values}
        self._set(values)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, values: Mapping[str, object]) -> None:
        for name, value in values.items():
            self.evaluate(f"application:set_env(rabbit, {name}, {value}).")
        if size := values.get("max_message_size"):
            self.evaluate(f"persistent_term:put(max_message_size, {size}).")  # RabbitMQ 4 looks there

    def delete_queues(self, *begins: str, wait: bool = True) -> None:
        """Delete those whose names begin so, or all; without ``wait`` the node does it in its own time."""
        wanted = ", ".join(f'<<"{begin}">>' for begin in begins or ("",))
        self.evaluate(_DELETE % (wanted, "Delete()" if wait else "spawn(Delete)"))

    @contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """Have the node raise its memory alarm, and take it back."""
        self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.00001).")
        try:
            yield
        finally:
            self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4).")

    def contents(self) -> dict[str, int]:
        """The queues with all their messages; of a quorum queue as they were some seconds ago."""
        listed = self.rabbitmqctl("list_queues", "name", "messages", "--no-table-headers", timeout=180.0)
        return {name: int(count) for name, count in (line.split("\t") for line in listed.splitlines())}

    def _server_command(self) -> list[str]:
        program = find_program("rabbitmq-server")
        if program is None:
            raise BrokerError("rabbitmq-server is not installed")
        # What is in this variable a node does first of all; its folder is `base_dir`.
        return ["env", "ERL_AFLAGS=-eval file:eval(load)", program]

    def _helper(self) -> tuple[list[str], int]:
        if self._mapper:
            return super()._helper()
        # Otherwise the node starts a port mapper as a daemon, which nobody ends.
        epmd = find_in_erlang("epmd")
        return ([epmd, "-port", str(self._epmd_port)] if epmd else []), self._epmd_port

    def _environment(self) -> dict[str, str]:
        base = self.base_dir
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "ERL_"))}
        loopback_only = "-kernel inet_dist_use_interface {127,0,0,1}"
        return inherited | {
            "HOME": str(self._mapper.base_dir if self._mapper else base),  # the Erlang cookie
            "LC_ALL": "C.UTF-8",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            # The script becomes the Erlang machine instead of its parent; `-noinput` takes the shell away.
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-noinput +S 1:1 {loopback_only}",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": self.host,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(base / "data"),
            "RABBITMQ_LOG_BASE": str(base / "log"),
            "RABBITMQ_PID_FILE": str(base / "pid"),
            "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(base / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
        }


_LENGTH_COMMANDS = {
    "hash": "HLEN",
    "list": "LLEN",
    "set": "SCARD",
    "stream": "XLEN",
    "string": "STRLEN",
    "zset": "ZCARD",
}


class RedisBroker(Broker):
    """A Redis (or Valkey) server that writes an append-only file, as a durable queue needs."""

    boot_timeout = 20.0

    @classmethod
    def available(cls) -> bool:
        """Whether the server is installed."""
        return find_program("redis-server", "valkey-server") is not None

    @property
    def url(self) -> str:
        """The Redis URL; it stays the same over restarts."""
        return f"redis://{self.host}:{self.port}/0"

    def is_ready(self) -> bool:
        """Whether the server answers PING (it refuses while it loads its data)."""
        return redis_answers(self.url)

    def cli(self, *args: str | bytes | int, timeout: float = 10.0) -> RedisReply:
        """Run one command on a connection of its own; text comes back as str, an error reply raises."""
        return redis_command(self.url, *args, timeout=timeout)

    def contents(self) -> dict[str, int]:
        """All keys with the number of their entries."""
        keys = self.cli("KEYS", "*")
        assert isinstance(keys, list)
        return {str(key): self._length(str(key)) for key in keys}

    def forget(self) -> None:
        """Lose everything, and come back: what a server without a disk does."""
        self.kill()
        shutil.rmtree(self.base_dir / "appendonlydir", ignore_errors=True)
        self.start()

    def _length(self, key: str) -> int:
        kind = str(self.cli("TYPE", key))
        return int(str(self.cli(_LENGTH_COMMANDS[kind], key)))

    def _server_command(self) -> list[str]:
        program = find_program("redis-server", "valkey-server")
        if program is None:
            raise BrokerError("redis-server is not installed")
        options = {
            "--port": str(self.port),
            "--bind": self.host,
            "--dir": str(self.base_dir),
            "--save": "",
            "--appendonly": "yes",
            # everysec may answer before it has written: with a busy disk a kill -9 then loses confirmed messages.
            "--appendfsync": "always",
            "--daemonize": "no",
        }
        return [program, *(part for option in options.items() for part in option)]


RedisReply = str | int | None | list["RedisReply"]


def redis_command(url: str, *args: str | bytes | int, timeout: float = 10.0) -> RedisReply:
    """Send one command to the server at the URL and return its reply."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in args]
    request = b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in encoded)
    with socket.create_connection(_address(url, 6379), timeout=timeout) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return _read_reply(stream.readline, stream.read)


def _read_reply(read_line: Callable[[], bytes], read: Callable[[int], bytes]) -> RedisReply:
    line = read_line()
    if not line.endswith(b"\r\n"):
        raise BrokerError("the server closed the connection")
    kind, rest = line[:1], line[1:-2].decode("utf-8", "replace")
    if kind == b"-":
        raise BrokerError(rest)
    if kind == b"+":
        return rest
    if kind == b":":
        return int(rest)
    size = int(rest)
    if size < 0:
        return None
    if kind == b"$":
        return read(size + 2)[:-2].decode("utf-8", "replace")
    return [_read_reply(read_line, read) for _ in range(size)]


def redis_answers(url: str) -> bool:
    """Whether a Redis server at the URL answers PING (or at least asks for a password)."""
    try:
        return redis_command(url, "PING", timeout=2) == "PONG"
    except BrokerError as exc:
        return str(exc).startswith("NOAUTH")
    except OSError:
        return False


def amqp_answers(url: str) -> bool:
    """Whether a server at the URL begins an AMQP 0-9-1 handshake: a method frame, Connection.Start."""
    try:
        with socket.create_connection(_address(url, 5672), timeout=2) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            with connection.makefile("rb") as stream:
                head = stream.read(11)
    except OSError:
        return False
    return head[:1] == b"\x01" and head[7:] == b"\x00\x0a\x00\x0a"


def _address(url: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or default_port
