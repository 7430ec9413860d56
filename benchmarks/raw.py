"""The floor: the same work by a blocking socket that builds its commands beforehand and looks at nothing it gets.

No client can be quicker in Python, for it has to say what came. Answers are counted, not read.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

_INBOX = b"_INBOX.raw"
_CHUNK = 1 << 18


class RawSocket:
    """One connection to the bucket; every method does its work once."""

    def __init__(self, url: str, bucket: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 4222), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._bucket = bucket
        self._names = itertools.count()
        options = {"verbose": False, "headers": True, "no_responders": True, "protocol": 1}
        self._socket.sendall(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB " + _INBOX + b".> 1\r\nPING\r\n")
        self._until(lambda data: data.count(b"PONG\r\n"), 1)

    def close(self) -> None:
        self._socket.close()

    def put(self, keys: list[str], value: bytes) -> None:
        for key in keys:
            self._exchange(self._put(key, value))

    def get(self, keys: list[str]) -> None:
        for key in keys:
            self._exchange(self._get(key))

    def put_in_flight(self, keys: list[str], value: bytes, window: int) -> None:
        self._pipeline((self._put(key, value) for key in keys), len(keys), window)

    def get_in_flight(self, keys: list[str], window: int) -> None:
        self._pipeline((self._get(key) for key in keys), len(keys), window)

    def get_many(self, keys: list[str], under_way: int = 6) -> None:
        """Batched direct gets of 1024 keys."""
        requests = []
        for start in range(0, len(keys), 1024):
            subjects = [f"$KV.{self._bucket}.{key}" for key in keys[start : start + 1024]]
            body = json.dumps({"multi_last": subjects}).encode()
            requests.append(self._request(f"$JS.API.DIRECT.GET.KV_{self._bucket}", body))
        self._pipeline(iter(requests), len(requests), under_way, end=b"NATS/1.0 204")

    def hydrate(self, count: int, *, headers_only: bool = False) -> None:
        """The last message of every key, by a push consumer."""
        name = f"raw{next(self._names)}"
        config = {
            "name": name,
            "deliver_policy": "last_per_subject",
            "filter_subject": f"$KV.{self._bucket}.>",
            "ack_policy": "none",
            "deliver_subject": f"_WATCH.{name}",
            "mem_storage": True,
            "headers_only": headers_only,
        }
        body = json.dumps({"stream_name": f"KV_{self._bucket}", "config": config}).encode()
        self._socket.sendall(f"SUB _WATCH.{name} {name}\r\n".encode())
        self._socket.sendall(self._request(f"$JS.API.CONSUMER.CREATE.KV_{self._bucket}.{name}", body))
        self._until(lambda data: data.count(b" $JS.ACK."), count)
        self._exchange(self._request(f"$JS.API.CONSUMER.DELETE.KV_{self._bucket}.{name}", b""), marker=b'"success"')

    def _put(self, key: str, value: bytes) -> bytes:
        return self._request(f"$KV.{self._bucket}.{key}", value)

    def _get(self, key: str) -> bytes:
        return self._request(f"$JS.API.DIRECT.GET.KV_{self._bucket}.$KV.{self._bucket}.{key}", b"")

    def _request(self, subject: str, payload: bytes) -> bytes:
        return b"PUB %b %b.r %d\r\n%b\r\n" % (subject.encode(), _INBOX, len(payload), payload)

    def _exchange(self, command: bytes, *, marker: bytes = _INBOX + b".r ") -> None:
        self._socket.sendall(command)
        self._until(lambda data: data.count(marker), 1)

    def _pipeline(self, commands: Iterable[bytes], total: int, window: int, *, end: bytes = _INBOX + b".r ") -> None:
        left = iter(commands)
        sent = done = 0
        tail = b""
        while done < total:
            more = list(itertools.islice(left, window - (sent - done)))
            if more:
                self._socket.sendall(b"".join(more))
                sent += len(more)
            data = tail + self._socket.recv(_CHUNK)
            done += data.count(end)
            tail = _rest(data, end)

    def _until(self, count: Callable[[bytes], int], wanted: int) -> None:
        seen, tail = 0, b""
        while seen < wanted:
            received = self._socket.recv(_CHUNK)
            if not received:
                raise ConnectionError("the server closed the raw connection")
            # A marker may be cut: the last bytes are looked at again, and what was in them not counted twice.
            data = tail + received
            seen += count(data) - count(tail)
            tail = data[-64:]


def _rest(data: bytes, marker: bytes) -> bytes:
    """The end of the data in which a marker may have begun."""
    last = data.rfind(marker)
    return data[max(last + len(marker) if last >= 0 else 0, len(data) - len(marker) + 1) :]
