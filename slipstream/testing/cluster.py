"""A cluster of real nats-servers for tests: three nodes on loopback, whose routes can be cut."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from slipstream.testing._ports import bind, port_of
from slipstream.testing.proxy import FaultProxy
from slipstream.testing.server import NatsServer

T = TypeVar("T")
_NAMES = ("n1", "n2", "n3")
_POLL = 0.05  # seconds
_ROUTES = 3  # between two nodes; each account takes one of them
_ANSWER_SECONDS = 1.0  # a paused node takes connections and says nothing


class Placement(NamedTuple):
    """Where a bucket is."""

    leader: ClusterNode
    followers: list[ClusterNode]


class ClusterNode(NatsServer):
    """One node: a `NatsServer` with a name, to be killed, paused and restarted by itself.

    `start` and `restart` return when it takes connections; the cluster's `ready` waits until it takes part.
    """

    def __init__(self, name: str, directory: Path, *, monitor_port: int, config: str) -> None:
        super().__init__(directory, config=config)
        self.name = name
        self._monitor_port = monitor_port

    def __repr__(self) -> str:
        return f"ClusterNode({self.name})"

    async def monitor(self, path: str) -> dict[str, Any] | None:
        """What its monitoring says, `/jsz` for one; None where it does not answer within a second."""
        return await asyncio.to_thread(self._monitor, path)

    def _monitor(self, path: str) -> dict[str, Any] | None:
        connection = HTTPConnection("127.0.0.1", self._monitor_port, timeout=_ANSWER_SECONDS)
        try:
            connection.request("GET", path)
            return dict(json.loads(connection.getresponse().read()))
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            connection.close()


class NatsCluster:
    """Three nodes with JetStream: `async with NatsCluster() as cluster: connect(cluster.url)`.

    Each has its own port and folder on this machine, and reaches the others through proxies only. Ready means that
    there is a meta leader which sees all three, so that buckets with three replicas can be made.

    Args:
        directory: where the nodes' folders go; None is a temporary one, removed at the end.
        config: text that is appended to the configuration file of every node.
        advertise: whether clients are told of the other nodes; without, they know those in their URL only.
        start_timeout: seconds until a start, or any other wait for the cluster, has failed.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        config: str = "",
        advertise: bool = True,
        start_timeout: float = 40.0,
    ) -> None:
        self._directory = directory
        self._config = config
        self._advertise = advertise
        self._timeout = start_timeout
        self._stack = AsyncExitStack()
        self._nodes: dict[str, ClusterNode] = {}
        self._routes: dict[tuple[str, str], FaultProxy] = {}

    async def __aenter__(self) -> Self:
        try:
            await self._build()
            await self.ready()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def nodes(self) -> list[ClusterNode]:
        return list(self._nodes.values())

    @property
    def url(self) -> str:
        """All nodes, separated by commas."""
        return ",".join(node.url for node in self.nodes)

    async def ready(self) -> None:
        """Return once there is a meta leader, it and every node see one another, and each has all routes to each.

        A node that is down, paused or cut off is waited for: it has to be back.

        Raises: TimeoutError.
        """
        await self._until(self._is_ready, "the cluster has no meta leader that all nodes follow")

    async def meta_leader(self) -> ClusterNode:
        """The node that places buckets, once most nodes follow it. Raises: TimeoutError."""

        async def find() -> ClusterNode | None:
            return self._node(agreed_leader(await self._meta_views(), of=len(self._nodes)))

        return await self._until(find, "the cluster has no meta leader")

    async def placement(self, bucket: str) -> Placement:
        """Which node leads the bucket and which hold copies, once most of these follow a leader that answers.

        A leader that was killed, paused or cut off from the others is out once they have chosen another: it takes 4
        to 9 seconds. Until then one that was cut off is still their leader.

        Raises: TimeoutError, also where there is no such bucket.
        """

        async def find() -> Placement | None:
            led = await self._led(bucket)
            if led is None:
                return None
            leader, view = led
            names = _group(view)
            return Placement(leader, [node for node in self.nodes if node.name in names and node is not leader])

        return await self._until(find, f"bucket {bucket!r} has no leader that its replicas follow")

    async def leader(self, bucket: str, *, other_than: ClusterNode | None = None) -> ClusterNode:
        """The leader of `placement`; with `other_than`, once this node is it no more. Raises: TimeoutError."""

        async def find() -> ClusterNode | None:
            led = await self._led(bucket)
            return None if led is None or led[0] is other_than else led[0]

        return await self._until(find, f"bucket {bucket!r} has no such leader that its replicas follow")

    async def in_sync(self, bucket: str) -> None:
        """Return once every copy of the bucket has all of it, as its leader sees it. Raises: TimeoutError."""

        async def level() -> bool:
            led = await self._led(bucket)
            copies = [] if led is None else led[1].get("replicas") or []
            return led is not None and all(copy["current"] and not copy.get("lag") for copy in copies)

        await self._until(level, f"the copies of bucket {bucket!r} are not level")

    def partition(self, one: ClusterNode, other: ClusterNode) -> None:
        """Let nothing through between two nodes until `heal`, and then all of it, late: as TCP does it."""
        for pair in ((one.name, other.name), (other.name, one.name)):
            self._routes[pair].freeze()

    def isolate(self, node: ClusterNode) -> None:
        """Partition the node from all others. Clients still reach it."""
        for other in self.nodes:
            if other is not node:
                self.partition(node, other)

    def delay(self, one: ClusterNode, other: ClusterNode, seconds: float) -> None:
        """Let what passes between two nodes arrive so much later, until `heal`: a replica there lags behind."""
        for pair in ((one.name, other.name), (other.name, one.name)):
            self._routes[pair].latency(seconds)

    async def heal(self) -> None:
        """End all partitions and delays."""
        await asyncio.gather(*(proxy.heal() for proxy in self._routes.values()))

    async def restore(self) -> None:
        """End all faults, start the nodes that are down, and return once the cluster is ready. Raises: TimeoutError."""
        await self.heal()
        for node in self.nodes:
            if node.is_running:
                node.resume()
            else:
                await node.start()
        await self.ready()

    async def _build(self) -> None:
        folder = self._directory
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="slipstream-cluster-"))
            self._stack.callback(shutil.rmtree, folder)
        route_ports = {name: self._reserve() for name in _NAMES}
        nowhere = self._reserve()
        for one, other in itertools.permutations(_NAMES, 2):
            proxy = FaultProxy("127.0.0.1", route_ports[other])
            self._routes[one, other] = await self._stack.enter_async_context(proxy)
        for name in _NAMES:
            monitor_port = self._reserve()
            routes = [self._routes[name, other].url for other in _NAMES if other != name]
            config = f"""
server_name: {name}
http: "127.0.0.1:{monitor_port}"
cluster {{
    name: slipstream-test
    listen: "127.0.0.1:{route_ports[name]}"
    pool_size: {_ROUTES}
    # What nodes tell one another would be ways around the proxies.
    advertise: "127.0.0.1:{nowhere}"
    no_advertise: {json.dumps(not self._advertise)}
    routes: {json.dumps(routes)}
}}
{self._config}"""
            self._nodes[name] = ClusterNode(name, folder / name, monitor_port=monitor_port, config=config)
        self._stack.push_async_callback(self._stop)
        for outcome in await asyncio.gather(*(node.start() for node in self.nodes), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _stop(self) -> None:
        await asyncio.gather(*(node.stop() for node in self.nodes))

    def _reserve(self) -> int:
        sock = bind()
        self._stack.callback(sock.close)
        return port_of(sock)

    async def _is_ready(self) -> bool:
        views = await self._meta_views()
        leader = agreed_leader(views, of=len(self._nodes))
        if leader is None or {view.get("leader") for view in views.values()} != {leader}:
            return False
        others = views[leader].get("replicas") or []
        reached = [other for other in others if other["current"] and not other.get("offline")]
        return len(views) == len(self._nodes) == len(reached) + 1 and await self._is_routed()

    async def _is_routed(self) -> bool:
        """Messages of clients get from each node to each. The meta leader does without: its routes are others."""
        views = await self._views("/routez")
        pairs = Counter(
            (node.name, route.get("remote_name"))
            for node, view in views
            for route in view.get("routes") or []
            if not route.get("account")  # else one for that account alone, as for the system's
        )
        return all(pairs[pair] == _ROUTES for pair in self._routes)

    async def _meta_views(self) -> dict[str, dict[str, Any]]:
        """How each node that answers sees the cluster, by the node's name."""
        return {node.name: view.get("meta_cluster", {}) for node, view in await self._views("/jsz")}

    async def _led(self, bucket: str) -> tuple[ClusterNode, dict[str, Any]] | None:
        """The leader of the bucket and how it sees the replicas, None while there is none."""
        views = {
            node.name: stream.get("cluster", {})
            for node, view in await self._views("/jsz?accounts=true&streams=true")
            for account in view.get("account_details") or []
            for stream in account.get("stream_detail") or []
            if stream["name"] == f"KV_{bucket}"
        }
        leader = self._node(agreed_leader(views, of=max((len(_group(view)) for view in views.values()), default=0)))
        return None if leader is None else (leader, views[leader.name])

    def _node(self, name: str | None) -> ClusterNode | None:
        return None if name is None else self._nodes[name]

    async def _views(self, path: str) -> list[tuple[ClusterNode, dict[str, Any]]]:
        """What the nodes that answer say."""
        answers = await asyncio.gather(*(node.monitor(path) for node in self.nodes))
        return [(node, answer) for node, answer in zip(self.nodes, answers, strict=True) if answer is not None]

    async def _until(self, find: Callable[[], Awaitable[T | None]], complaint: str) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                while not (found := await find()):  # noqa: ASYNC110 - an election sets no event here
                    await asyncio.sleep(_POLL)
                return found
        except TimeoutError:
            raise TimeoutError(f"{complaint} after {self._timeout} s; the nodes' logs tell why") from None


def agreed_leader(views: Mapping[str, Mapping[str, Any]], *, of: int) -> str | None:
    """The leader that more than half of `of` nodes name, itself among them; None while there is none. Pure.

    Args:
        views: how each node that answers sees the others, by its name.
    """
    for name, view in views.items():
        followers = sum(1 for other in views.values() if other.get("leader") == name)
        if view.get("leader") == name and followers > of // 2:
            return name
    return None


def _group(view: dict[str, Any]) -> set[str]:
    """The names of all nodes that hold it, as one node sees it."""
    names = [view.get("leader"), *(replica["name"] for replica in view.get("replicas") or [])]
    return {name for name in names if name}
