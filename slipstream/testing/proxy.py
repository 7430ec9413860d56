"""A TCP proxy that breaks what passes through it, on purpose: put it between a client and its server."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from slipstream.testing._ports import bind, port_of

Direction = Literal["to_server", "to_client"]
Side = Literal["client", "server"]
_BOTH: frozenset[Direction] = frozenset({"to_server", "to_client"})
_CHUNK = 65536
_IN_FLIGHT = 64  # chunks under way in one direction; more, and the sender is held back as TCP would
_SLICE_SECONDS = 0.02  # how much of a narrow path's time is handed over at once
_FLUSH_SECONDS = 1.0  # how long a closed connection may take to hand over its last bytes

_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_Flight = asyncio.Queue[tuple[float, bytes]]  # when it is due, and the bytes; none at the end of the stream


@dataclass(eq=False)
class _Link:
    """One proxied connection.

    Attributes:
        writers: to the client and, once it is connected to, to the server.
        holed: bytes of it were swallowed, so what follows would make no sense to the receiver.
        half_dead: one side of it has gone without the other being told.
    """

    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    holed: bool = False
    half_dead: bool = False


@dataclass
class _Cut:
    remaining: int
    done: asyncio.Event


class FaultProxy:
    """`async with FaultProxy("127.0.0.1", server.port) as proxy: connect(proxy.url)`.

    Faults are plain calls, take effect at once and last until `await heal()`; they may be combined. Without a fault it
    forwards everything, and ends a connection when either side does.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self._target = (target_host, target_port)
        self._port: int | None = None
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._deaf: frozenset[Direction] = frozenset()
        self._open: dict[Direction, asyncio.Event] = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        self._latency = 0.0
        self._bandwidth: float | None = None
        self._cuts: dict[Direction, _Cut] = {}
        self._thaw()

    async def __aenter__(self) -> Self:
        await self._listen(bind())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def port(self) -> int:
        """On 127.0.0.1; the same for the life of the proxy. Raises: RuntimeError before it is entered."""
        if self._port is None:
            raise RuntimeError("the proxy was never entered")
        return self._port

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return len(self._links)

    def black_hole(self, direction: Direction | Literal["both"] = "both") -> None:
        """Swallow what is sent that way, the end of the stream too; connections stay open, new ones are equally deaf.

        `heal` closes the connections that lost bytes: a stream with a hole in it cannot go on.
        """
        self._deaf = _directions(direction)

    def freeze(self, direction: Direction | Literal["both"] = "both") -> None:
        """Hold back what is sent that way, the end of the stream too; connections stay open, new ones wait as well.

        As where packets are lost, or the receiver has stopped: `heal` lets all of it through, late. Who sends more than
        the buffers hold, some megabytes, is held back too.
        """
        self._thaw()
        for each in _directions(direction):
            self._open[each].clear()

    def half_dead(self, survivor: Side = "client") -> None:
        """End the other side of all current connections, and leave the survivor's open: no FIN, no RST, no answer.

        As after a host that lost its power, or a firewall that forgot the connection. New connections are good;
        `heal` closes what was left open.
        """
        for link in self._links.values():
            link.half_dead = True
            for writer in link.writers[1:] if survivor == "client" else link.writers[:1]:
                writer.close()

    def latency(self, seconds: float) -> None:
        """Deliver everything so much later, both ways, in order; 0 turns it off."""
        self._latency = seconds

    def bandwidth(self, bytes_per_second: float | None) -> None:
        """Let no more through, in each direction of each connection; None turns it off."""
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise ValueError(f"a bandwidth is above 0, not {bytes_per_second}: use black_hole()")
        self._bandwidth = bytes_per_second

    def cut_after(self, n_bytes: int, direction: Direction) -> asyncio.Event:
        """Close all connections right after so many more bytes that way, counted over all of them; once.

        The event is set when it has happened. Connections made afterwards are left alone.
        """
        cut = self._cuts[direction] = _Cut(n_bytes, asyncio.Event())
        return cut.done

    def refuse(self) -> None:
        """Refuse new connections; those that are open go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            # Bound but not listening: it refuses, and nobody else can be given the port meanwhile.
            self._held = bind(self.port)

    def drop(self) -> None:
        """Close all current connections, as a peer does that ends in good order."""
        for task in self._links:
            _cancel(task)

    def reset(self) -> None:
        """Reset all current connections: both sides see ECONNRESET."""
        for task, link in self._links.items():
            for writer in link.writers:
                _reset(writer)
            _cancel(task)

    async def heal(self) -> None:
        """End all faults; connections that lost bytes are closed."""
        self._deaf = frozenset()
        self._thaw()
        self._latency = 0.0
        self._bandwidth = None
        self._cuts.clear()
        holed = [task for task, link in self._links.items() if link.holed or link.half_dead]
        for task in holed:
            _cancel(task)
        await asyncio.gather(*holed, return_exceptions=True)
        if self._held is not None:
            held, self._held = self._held, None
            await self._listen(held)

    async def aclose(self) -> None:
        """Close the port and every connection; safe to repeat."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._held is not None:
            self._held.close()
            self._held = None
        self.drop()
        for outcome in await asyncio.gather(*self._links, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _listen(self, sock: socket.socket) -> None:
        try:
            # Served in a second step: it is there that a cancellation arrives, and by then the server owns the socket.
            # A listening socket that is just closed stays in the loop's selector, where its number is soon another's.
            server = await asyncio.start_server(self._accept, sock=sock, start_serving=False)
        except BaseException:
            sock.close()
            raise
        try:
            await server.start_serving()
        except BaseException:
            server.close()
            raise
        self._server = server
        self._port = port_of(sock)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link([writer])
        task = asyncio.create_task(self._run(link, (reader, writer)))
        self._links[task] = link
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        # Also for a task that was cancelled before it ran, and for bytes that nobody takes any more.
        for writer in self._links.pop(task).writers:
            writer.transport.abort()

    async def _run(self, link: _Link, client: _Streams) -> None:
        try:
            server = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(client[1])
            return
        link.writers.append(server[1])
        to_server: _Flight = asyncio.Queue(_IN_FLIGHT)
        to_client: _Flight = asyncio.Queue(_IN_FLIGHT)
        delivering = [
            asyncio.create_task(self._deliver(link, to_server, server[1], "to_server")),
            asyncio.create_task(self._deliver(link, to_client, client[1], "to_client")),
        ]
        taking = [
            asyncio.create_task(self._take(client[0], to_server)),
            asyncio.create_task(self._take(server[0], to_client)),
        ]
        try:
            await asyncio.wait(delivering, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*delivering, *taking):
                task.cancel()
            outcomes = await asyncio.gather(*delivering, *taking, return_exceptions=True)
            await _close(link.writers)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _take(self, reader: asyncio.StreamReader, flight: _Flight) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await reader.read(_CHUNK)
            except OSError:  # reset by the peer: the same to the other side as an end
                data = b""
            await flight.put((loop.time() + self._latency, data))
            if not data:
                return

    async def _deliver(self, link: _Link, flight: _Flight, writer: asyncio.StreamWriter, direction: Direction) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await flight.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._open[direction].wait()
            if not data and not self._swallows(link, direction):
                return
            while data:
                piece, data = await self._throttled(data)
                if not self._swallows(link, direction) and not await self._pass_on(piece, writer, direction):
                    return

    def _thaw(self) -> None:
        for direction in self._open.values():
            direction.set()

    def _swallows(self, link: _Link, direction: Direction) -> bool:
        if link.half_dead:
            return True
        if direction in self._deaf:
            link.holed = True
            return True
        return False

    async def _throttled(self, data: bytes) -> tuple[bytes, bytes]:
        """What comes through now, once it may, and what comes after it."""
        if self._bandwidth is None:
            return data, b""
        size = min(len(data), max(1, int(self._bandwidth * _SLICE_SECONDS)))
        await asyncio.sleep(size / self._bandwidth)
        return data[:size], data[size:]

    async def _pass_on(self, data: bytes, writer: asyncio.StreamWriter, direction: Direction) -> bool:
        """Write it; False if the connection ends here."""
        cut = self._cuts.get(direction)
        if cut is not None and len(data) >= cut.remaining:
            writer.write(data[: cut.remaining])
            del self._cuts[direction]
            self.drop()
            cut.done.set()
            return False
        if cut is not None:
            cut.remaining -= len(data)
        writer.write(data)
        try:
            await writer.drain()
        except OSError:  # gone; the other direction learns it from its own end
            return False
        return True


def _directions(direction: Direction | Literal["both"]) -> frozenset[Direction]:
    return _BOTH if direction == "both" else frozenset({direction})


def _cancel(task: asyncio.Task[None]) -> None:
    if not task.cancelling():  # a second one would interrupt its clean-up
        task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.transport.is_closing():
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
    with suppress(TimeoutError):  # what is left then is aborted when the task is forgotten
        async with asyncio.timeout(_FLUSH_SECONDS):
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
