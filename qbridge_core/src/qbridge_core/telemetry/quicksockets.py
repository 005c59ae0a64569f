"""What a server asks of its sockets, without handing on the interpreter's lock where that can be had.

Python lets go of its lock around each call of a socket, and where handlers keep all threads busy it has it back when as
many of them as like have had their turn of 5 ms. These calls return at once, so there is no reason to let others run;
the C library is asked for them by ``ctypes.PyDLL``, which keeps the lock. Where it has no such functions, as on systems
other than Linux, the methods of the socket do the same, and take longer in a process that is busy.
"""

from __future__ import annotations

import ctypes
import os
import socket
from typing import Final


def _library() -> ctypes.PyDLL | None:
    try:
        library = ctypes.PyDLL(None, use_errno=True)
        accept, receive, send = library.accept4, library.recv, library.send
    except (OSError, AttributeError, TypeError):
        return None
    accept.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
    receive.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    send.argtypes = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
    receive.restype = send.restype = ctypes.c_ssize_t
    return library


_LIBRARY: Final = _library()


def accept_at_once(door: socket.socket) -> socket.socket:
    """A new connection, for the functions below alone.

    Args:
        door: listens, and does not block.

    Raises:
        BlockingIOError: nobody is there.
        OSError: whoever was there is gone, or no descriptor is left.
    """
    if _LIBRARY is None:
        connection, _ = door.accept()
        connection.setblocking(False)
        return connection
    descriptor = _checked(_LIBRARY.accept4(door.fileno(), None, None, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK))
    return socket.socket(door.family, door.type, door.proto, fileno=descriptor)


def receive_at_once(connection: socket.socket, most: int) -> bytes:
    """What has come, so many bytes at most; ``b""`` at the end.

    Raises:
        BlockingIOError: nothing has.
        OSError: the other side is gone.
    """
    if _LIBRARY is None:
        return connection.recv(most)
    room = ctypes.create_string_buffer(most)
    length = _checked(_LIBRARY.recv(connection.fileno(), room, most, 0))
    return room.raw[:length]


def send_at_once(connection: socket.socket, data: bytes) -> int:
    """How many bytes of it were sent.

    Raises:
        BlockingIOError: none, since the other side reads too slowly.
        OSError: the other side is gone.
    """
    if _LIBRARY is None:
        return connection.send(data)
    return _checked(_LIBRARY.send(connection.fileno(), data, len(data), socket.MSG_NOSIGNAL))


def _checked(result: int) -> int:
    """The result of a function of the C library, if it was no failure."""
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))  # which makes a BlockingIOError of EAGAIN
