"""The pages over HTTP of a process: who gets what, and that nobody keeps them from others."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from qbridge_core import ConfigurationError
from qbridge_core.telemetry import pages as module
from qbridge_core.telemetry import quicksockets
from qbridge_core.telemetry.pages import TEXT, Page, Pages, PageServer
from qbridge_core.telemetry.requests import LONGEST_REQUEST
from support.wait import wait_for


@pytest.fixture
def pages() -> Pages:
    """With one page, ``/hello``."""
    shown = Pages()
    shown.add("/hello", lambda: Page(200, TEXT, b"hello"))
    return shown


@pytest.fixture(params=["library", "methods"])
def server(pages: Pages, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    """Shows them at a free port, with the C library where there is one, and as on systems where there is none."""
    if request.param == "methods":
        monkeypatch.setattr(quicksockets, "_LIBRARY", None)
    with PageServer(pages, "127.0.0.1", 0) as running:
        yield running


def get(server: PageServer, path: str, method: str = "GET") -> http.client.HTTPResponse:
    """Ask as any client does; the body is read."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    answer.text = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def said(server: PageServer, request: bytes) -> bytes:
    """What the server says to these bytes until it ends the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_page_is_shown_at_its_path_whatever_the_query(server: PageServer) -> None:
    """Status, type and body are what its function returned; what follows a question mark does not count."""
    answer = get(server, "/hello?verbose=1")
    assert (answer.status, answer.getheader("Content-Type"), answer.text) == (200, TEXT, b"hello")  # type: ignore[attr-defined]


def test_a_path_may_be_written_with_percent_signs(pages: Pages, server: PageServer) -> None:
    """A page is found however a client writes the characters of its path."""
    pages.add("/queues/größe 1", lambda: Page(200, TEXT, b"found"))
    assert get(server, "/%71ueues/gr%C3%B6%C3%9Fe%201").status == 200


def test_a_page_may_be_red_and_may_be_replaced(pages: Pages, server: PageServer) -> None:
    """A page is asked anew for each visit, and one that is added later takes the place of the one before."""
    pages.add("/hello", lambda: Page(503, TEXT, b"not now"))
    assert get(server, "/hello").status == 503


def test_head_gets_the_headers_alone(server: PageServer) -> None:
    """The length is that of the page, and no body follows."""
    answer = get(server, "/hello", "HEAD")
    assert (answer.status, answer.getheader("Content-Length"), answer.text) == (200, "5", b"")  # type: ignore[attr-defined]


def test_other_paths_are_told_which_pages_there_are(server: PageServer) -> None:
    """A 404 names the paths that exist."""
    answer = get(server, "/other")
    assert answer.status == 404
    assert b"/hello" in answer.text  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /hello HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /hello SPDY\r\n\r\n", b"400"),
        (b"GET /hello HTTP/1.1\r\n".ljust(LONGEST_REQUEST, b"x"), b"431"),
    ],
)
def test_what_is_no_request_for_a_page_gets_its_status(server: PageServer, request_bytes: bytes, status: bytes) -> None:
    """Other methods, other protocols and endless headers are refused, and the next visitor is served."""
    assert said(server, request_bytes).split(b" ")[1] == status
    assert get(server, "/hello").status == 200


def test_a_page_that_raises_is_a_500_and_others_are_shown(
    pages: Pages, server: PageServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback, once for many visits."""

    def broken() -> Page:
        raise ValueError("secret")

    pages.add("/broken", broken)
    with caplog.at_level(logging.ERROR, "qbridge.pages"):
        assert [get(server, "/broken").status for _ in range(3)] == [500] * 3
        wait_for(lambda: caplog.records)
    assert b"secret" not in get(server, "/broken").text  # type: ignore[attr-defined]
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert get(server, "/hello").status == 200


def test_who_has_said_all_is_answered_in_one_go(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that is busy each new wait for a visitor takes as long as the other threads like."""
    waited: list[object] = []
    monkeypatch.setattr(PageServer, "_let_wait", lambda _, visitor: waited.append(visitor))
    server = PageServer(pages, "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\n\r\n")
        with server:
            assert b"".join(iter(lambda: connection.recv(65_536), b"")).endswith(b"hello")
    assert waited == []


def test_a_visitor_who_says_nothing_keeps_nobody_waiting(server: PageServer) -> None:
    """One that has sent half a request is answered when it goes on, and others meanwhile."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(b"GET /hel")
        assert get(server, "/hello").status == 200
        slow.sendall(b"lo HTTP/1.1\r\n\r\n")
        assert slow.recv(65_536).startswith(b"HTTP/1.1 200 OK")


def test_a_visitor_who_takes_too_long_is_shown_out(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a request holds a descriptor for some seconds only."""
    monkeypatch.setattr(module, "_PATIENCE", 0.05)
    with PageServer(pages, "127.0.0.1", 0) as server:
        assert said(server, b"GET /hel") == b""


def test_many_visitors_drive_out_those_who_came_first(
    pages: Pages, server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many connections are open and silent, a new one is served."""
    monkeypatch.setattr(module, "_MOST_VISITORS", 2)
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(4)]
    assert get(server, "/hello").status == 200
    assert silent[0].recv(1) == b""
    for each in silent:
        each.close()


def test_a_long_page_reaches_a_visitor_who_reads_slowly(pages: Pages, server: PageServer) -> None:
    """What the socket does not take at once is written as the visitor reads, and others are served meanwhile."""
    long = b"x" * 20_000_000
    pages.add("/long", lambda: Page(200, TEXT, long))
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
        slow.sendall(b"GET /long HTTP/1.1\r\n\r\n")
        beginning = slow.recv(100)
        assert get(server, "/hello").status == 200
        rest = b"".join(iter(lambda: slow.recv(1_000_000), b""))
    assert (beginning + rest).endswith(long)


def test_the_server_outlives_an_error_of_its_own(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """G20: a system without a descriptor left, for one, is a line in the log, and the visitor is served later."""
    with PageServer(pages, "127.0.0.1", 0) as server:
        admit: Callable[[], None] = server._admit
        errors = iter([OSError(errno.EMFILE, "too many open files")])

        def first_fails() -> None:
            for error in errors:
                raise error
            admit()

        monkeypatch.setattr(server, "_admit", first_fails)
        assert get(server, "/hello").status == 200
    assert "goes on after an unexpected error" in caplog.text


def test_a_port_in_use_is_a_clear_error(pages: Pages, server: PageServer) -> None:
    """The error names the address, what the system says, and what to do."""
    with pytest.raises(ConfigurationError, match=rf"at 127.0.0.1:{server.port}: .*in use.*; choose another port"):
        PageServer(pages, "127.0.0.1", server.port)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no such host", 0), ("127.0.0.1", True)])
def test_an_address_that_is_none_is_a_clear_error(pages: Pages, host: str, port: int) -> None:
    """Wrong ports and unknown hosts are errors at once."""
    with pytest.raises(ConfigurationError):
        PageServer(pages, host, port)


def test_closing_frees_the_port_and_may_be_repeated(pages: Pages) -> None:
    """After ``close`` another server can listen at the same port, and the thread has ended."""
    with PageServer(pages, "127.0.0.1", 0) as server:
        port = server.port
    server.close()
    assert not server._thread.is_alive()
    PageServer(pages, "127.0.0.1", port).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_copy_of_the_process_does_not_hold_the_port(pages: Pages) -> None:
    """What a handler forks may outlive the worker: the next worker gets the port all the same."""
    with PageServer(pages, "127.0.0.1", 0) as server:
        here, there = socket.socketpair()
        if (copy := os.fork()) == 0:
            here.close()
            there.send(b"!")
            there.recv(1)
            os._exit(0)
        there.close()
        assert here.recv(1)
        port = server.port
    try:
        PageServer(pages, "127.0.0.1", port).close()
    finally:
        here.close()
        os.waitpid(copy, 0)
