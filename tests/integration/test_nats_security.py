"""Servers that ask for TLS, certificates, passwords, tokens, nkeys or JWTs: who gets in, who does not, what shows."""

from __future__ import annotations

import logging
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import nats
import pytest
import trustme

import slipstream
from slipstream import AuthenticationError, ConnectionFailedError, NatsConnection, PermissionDeniedError
from slipstream.testing._tenants import Key, Tenants, inline, seed_of
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.server import NatsServer

PATIENT = 60.0  # seconds; what is refused at once does not wait so long


@dataclass
class Authority:
    """A certificate authority, what servers of it are configured with, and contexts of clients that trust it."""

    folder: Path
    ca: trustme.CA = field(default_factory=trustme.CA)

    def server(self, *names: str, more: str = "") -> str:
        """The configuration of a server with a certificate for these names."""
        certificate = self.ca.issue_cert(*names)
        paths = {name: self.folder / f"{names[0]}.{name}.pem" for name in ("cert", "key", "ca")}
        certificate.cert_chain_pems[0].write_to_path(paths["cert"])
        certificate.private_key_pem.write_to_path(paths["key"])
        self.ca.cert_pem.write_to_path(paths["ca"])
        files = ", ".join(f'{name}_file: "{path}"' for name, path in paths.items())
        return f"tls {{ {files}, {more} }}"

    def client(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tenants() -> Tenants:
    return Tenants()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def use(url: str, **options: Any) -> None:
    """Write and read through a connection with these options."""
    async with bounded(), slipstream.connect(url, op_timeout=PATIENT, **options) as conn:
        store = await conn.store("b")
        await store.put("k", b"v")
        assert [entry.value for entry in await store.scan()] == [b"v"]


async def refused(error: type[slipstream.KvError], url: str, **options: Any) -> str:
    """What a connection with these options is told, at once."""
    conn = slipstream.connect(url, op_timeout=PATIENT, **options)
    try:
        async with bounded():
            with pytest.raises(error) as caught:
                await conn.connect()
    finally:
        await conn.shutdown()
    assert type(caught.value) is error
    return str(caught.value)


class TestTls:
    @pytest.mark.parametrize("scheme", ["tls", "nats"])
    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_a_certificate_of_a_trusted_authority(self, authority: Authority, scheme: str, host: str) -> None:
        async with NatsServer(config=authority.server("localhost", "127.0.0.1")) as server:
            await use(f"{scheme}://{host}:{server.port}", tls=authority.client())

    async def test_a_certificate_for_another_name(self, authority: Authority) -> None:
        async with NatsServer(config=authority.server("nats.test")) as server:
            url = f"tls://127.0.0.1:{server.port}"
            assert "not valid for '127.0.0.1'" in await refused(ConnectionFailedError, url, tls=authority.client())
            await use(url, tls=authority.client(), tls_hostname="nats.test")

    @pytest.mark.parametrize("scheme", ["tls", "nats"])
    async def test_an_authority_that_is_not_trusted(self, authority: Authority, tmp_path: Path, scheme: str) -> None:
        async with NatsServer(config=authority.server("localhost")) as server:
            url = f"{scheme}://u:password@localhost:{server.port}"
            for options in ({"tls": Authority(tmp_path).client()}, {}):
                told = await refused(ConnectionFailedError, url, **options)
                assert "certificate verify failed" in told
                assert "password" not in told

    @pytest.mark.parametrize("by", ["scheme", "context"])
    async def test_a_server_without_tls_is_never_told_a_secret(self, authority: Authority, by: str) -> None:
        """Whoever sits between could otherwise claim that there is no TLS, and read the password."""
        async with NatsServer(config="authorization { user: u, password: password }") as server:
            scheme = "tls" if by == "scheme" else "nats"
            options = {} if by == "scheme" else {"tls": authority.client()}
            told = await refused(ConnectionFailedError, f"{scheme}://u:password@localhost:{server.port}", **options)
            assert "TLS" in told

    async def test_tls_before_anything_is_said(self, authority: Authority) -> None:
        # The server waits for TLS so long before it greets: longer than a client that waits for the greeting.
        config = authority.server("localhost", more='handshake_first: "1s"')
        async with NatsServer(config=config) as server:
            url = f"tls://localhost:{server.port}"
            await use(url, tls=authority.client(), tls_handshake_first=True)
            waits = {"tls": authority.client(), "connect_timeout": 0.3}
            told = await refused(ConnectionFailedError, url, **waits)
            assert "no answer" in told
            assert "tls_handshake_first=True" in told

    @pytest.mark.parametrize("lane", ["data", "slow"])
    async def test_it_reconnects_with_tls(
        self, authority: Authority, lane: Literal["data", "slow"], caplog: pytest.LogCaptureFixture
    ) -> None:
        options: dict[str, Any] = {"tls": authority.client(), "reconnect_max_wait": 0.1, "lane": lane}
        async with NatsServer(config=authority.server("localhost")) as server:
            url = f"tls://localhost:{server.port}"
            async with bounded(), slipstream.connect(url, **options) as conn:
                store = await conn.store("b")
                await store.put("k", b"v")
                await server.restart()

                async def answers() -> bool:
                    return conn.is_healthy() and await store.get("k") is not None

                await eventually(answers)
        # asyncio's, where a stream is not told that it is encrypted: "returning true from eof_received() ...".
        assert not [record for record in caplog.records if record.name == "asyncio"]

    @pytest.mark.parametrize("lane", ["data", "slow"])
    async def test_a_server_that_another_one_told_of_is_spoken_to_encrypted(
        self, authority: Authority, lane: Literal["data", "slow"]
    ) -> None:
        """A cluster tells of its servers by address alone: the certificate names those as well."""
        ports = [free_port() for _ in range(2)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)

        def node(number: int) -> NatsServer:
            cluster = f'cluster {{ name: c, listen: "127.0.0.1:{ports[number]}", routes: [{routes}] }}'
            config = f"server_name: n{number}\n{cluster}\n{authority.server('localhost', '127.0.0.1')}"
            return NatsServer(config=config, jetstream=False)

        async with node(0) as known, node(1) as told_of:
            conn = slipstream.connect(f"tls://localhost:{known.port}", tls=authority.client(), lane=lane)
            events = conn.events()
            async with bounded(), conn:

                async def has_been_told() -> bool:
                    session = vars(conn)["_session"]
                    return any(server.port == told_of.port for server in session.client.discovered_servers)

                await eventually(has_been_told)
                await known.kill()
                async for event in events:
                    moved = event.server is not None and event.server.endswith(f":{told_of.port}")
                    if moved and event.state is slipstream.ConnectionState.CONNECTED:
                        break
                session = vars(conn)["_session"]
                transport = session.client._transport
                stream = transport._io if lane == "data" else transport._io_writer
                assert stream.get_extra_info("cipher") is not None


class TestMutualTls:
    async def test_a_certificate_that_the_server_knows(self, authority: Authority) -> None:
        config = authority.server("localhost", more="verify: true")
        async with NatsServer(config=config) as server:
            await use(f"tls://localhost:{server.port}", tls=authority.client(authority.ca.issue_cert("client@test")))

    async def test_none(self, authority: Authority) -> None:
        async with NatsServer(config=authority.server("localhost", more="verify: true")) as server:
            url = f"tls://localhost:{server.port}"
            assert "certificate" in await refused(AuthenticationError, url, tls=authority.client())

    async def test_one_of_somebody_else(self, authority: Authority) -> None:
        stranger = trustme.CA().issue_cert("client@test")
        async with NatsServer(config=authority.server("localhost", more="verify: true")) as server:
            url = f"tls://localhost:{server.port}"
            assert "certificate" in await refused(AuthenticationError, url, tls=authority.client(stranger))

    async def test_the_name_in_it_decides_what_is_permitted(self, authority: Authority) -> None:
        users = """authorization { users = [
            { user: "writer@test" }
            { user: "reader@test", permissions: { publish: { deny: "$KV.>" } } }
        ] }"""
        config = f"{authority.server('localhost', more='verify_and_map: true')}\n{users}"
        async with NatsServer(config=config) as server:
            url = f"tls://localhost:{server.port}"
            await use(url, tls=authority.client(authority.ca.issue_cert("writer@test")))
            reader = authority.client(authority.ca.issue_cert("reader@test"))
            async with bounded(), slipstream.connect(url, tls=reader, op_timeout=PATIENT) as conn:
                store = await conn.store("b")
                assert await store.get("k") is not None
                with pytest.raises(PermissionDeniedError):
                    await store.put("k", b"w")
            await refused(AuthenticationError, url, tls=authority.client(authority.ca.issue_cert("nobody@test")))


class TestNkeys:
    @pytest.fixture
    def key(self) -> Key:
        return Key.of_user()

    def config(self, key: Key) -> str:
        denied = '{ publish: { deny: "$KV.b.closed" } }'
        return f'authorization {{ users = [ {{ nkey: "{key.public}", permissions: {denied} }} ] }}'

    async def test_a_client_that_signs_is_lent(self, key: Key) -> None:
        async def quiet(_: Exception) -> None:
            return

        async with NatsServer(config=self.config(key)) as server:
            client = await nats.connect(server.url, nkeys_seed_str=key.seed.decode(), error_cb=quiet)
            try:
                async with bounded(), NatsConnection.from_client(client, op_timeout=PATIENT) as conn:
                    store = await conn.store("b")
                    await store.put("open", b"v")
                    with pytest.raises(PermissionDeniedError):
                        await store.put("closed", b"v")
            finally:
                await client.close()

    async def test_a_seed_gets_in(self, key: Key) -> None:
        async with NatsServer(config=self.config(key)) as server:
            await use(server.url, nkey_seed=key.seed.decode())

    async def test_a_file_gets_in_and_again_after_a_restart(self, key: Key, tmp_path: Path) -> None:
        file = tmp_path / "user.nk"
        file.write_text(f"{key.seed.decode()}\n")
        async with (
            NatsServer(config=self.config(key)) as server,
            bounded(),
            slipstream.connect(server.url, nkey_file=file, op_timeout=PATIENT) as conn,
        ):
            store = await conn.store("b")
            await store.put("k", b"v")
            await server.restart()
            assert await store.get("k") is not None

    async def test_the_seed_of_another_user_does_not(self, key: Key, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        other = Key.of_user().seed.decode()
        async with NatsServer(config=self.config(key)) as server:
            told = await refused(AuthenticationError, server.url, nkey_seed=other)
        assert other not in told + caplog.text

    async def test_a_file_that_cannot_be_used_is_named(self, key: Key, tmp_path: Path) -> None:
        async with NatsServer(config=self.config(key)) as server:
            missing, empty = tmp_path / "missing.nk", tmp_path / "empty.nk"
            empty.write_text("")
            assert f"nkey_file {str(missing)!r} cannot be read" in await refused(
                AuthenticationError, server.url, nkey_file=missing
            )
            assert f"nkey_file {str(empty)!r} holds no seed" in await refused(
                AuthenticationError, server.url, nkey_file=empty
            )

    async def test_nobody_else_gets_in(self, key: Key, tenants: Tenants) -> None:
        async with NatsServer(config=self.config(key)) as server:
            await refused(AuthenticationError, server.url)
            await refused(AuthenticationError, server.url, creds=inline(tenants.user()[1]))


class TestJwts:
    async def test_what_they_deny_is_refused_at_once(self, tenants: Tenants) -> None:
        _, creds = tenants.user(may_not_publish=["$KV.b.closed", "$JS.API.CONSUMER.CREATE.KV_b.>"])
        async with (
            NatsServer(config=tenants.config()) as server,
            bounded(),
            slipstream.connect(server.url, creds=inline(creds), op_timeout=PATIENT) as conn,
        ):
            store = await conn.store("b")
            await store.put("open", b"v")
            with pytest.raises(PermissionDeniedError, match=r"\$KV\.b\.closed"):
                await store.put("closed", b"v")
            with pytest.raises(PermissionDeniedError, match=r"CONSUMER\.CREATE"):
                await store.watch().__aenter__()
            assert await store.get("open") is not None

    async def test_one_that_has_expired(self, tenants: Tenants) -> None:
        _, creds = tenants.user(expires=int(time.time()) - 60)
        async with NatsServer(config=tenants.config()) as server:
            await refused(AuthenticationError, server.url, creds=inline(creds))


@dataclass
class Login:
    """A way in, and a way that is refused.

    Attributes:
        config: of the server.
        secrets: what must not show.
    """

    config: str
    right: Callable[[int], tuple[str, dict[str, Any]]]
    wrong: Callable[[int], tuple[str, dict[str, Any]]]
    secrets: list[str]


def _password() -> Login:
    return Login(
        config="authorization { user: u, password: right-s3cret }",
        right=lambda port: (f"localhost:{port}", {"login": "u:right-s3cret@"}),
        wrong=lambda port: (f"localhost:{port}", {"login": "u:wrong-s3cret@"}),
        secrets=["s3cret"],
    )


def _token() -> Login:
    return Login(
        config="authorization { token: right-s3cret }",
        right=lambda port: (f"localhost:{port}", {"login": "right-s3cret@"}),
        wrong=lambda port: (f"localhost:{port}", {"login": "wrong-s3cret@"}),
        secrets=["s3cret"],
    )


def _nkey() -> Login:
    right, wrong = Key.of_user(), Key.of_user()
    return Login(
        config=f'authorization {{ users = [ {{ nkey: "{right.public}" }} ] }}',
        right=lambda port: (f"localhost:{port}", {"nkey_seed": right.seed.decode()}),
        wrong=lambda port: (f"localhost:{port}", {"nkey_seed": wrong.seed.decode()}),
        secrets=[right.seed.decode(), wrong.seed.decode()],
    )


def _creds() -> Login:
    tenants = Tenants()
    (_, right), (_, wrong) = tenants.user(), tenants.user(of=Key.of_account())
    return Login(
        config=tenants.config(),
        right=lambda port: (f"localhost:{port}", {"creds": inline(right)}),
        wrong=lambda port: (f"localhost:{port}", {"creds": inline(wrong)}),
        secrets=[seed_of(right), seed_of(wrong), *right.splitlines()[1:2], *wrong.splitlines()[1:2]],
    )


@pytest.mark.parametrize("encrypted", [True, False], ids=["tls", "plain"])
@pytest.mark.parametrize("make", [_password, _token, _nkey, _creds], ids=["password", "token", "nkey", "creds"])
class TestNoSecretShows:
    def url(self, scheme: str, way: tuple[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        address, options = way
        login = options.get("login", "")
        return f"{scheme}://{login}{address}", {name: value for name, value in options.items() if name != "login"}

    async def test_in_logs_reprs_and_errors(
        self, authority: Authority, caplog: pytest.LogCaptureFixture, make: Callable[[], Login], encrypted: bool
    ) -> None:
        caplog.set_level(logging.DEBUG)
        login = make()
        scheme, tls = ("tls", {"tls": authority.client()}) if encrypted else ("nats", {})
        config = f"{login.config}\n{authority.server('localhost') if encrypted else ''}"
        shown: list[str] = []
        async with NatsServer(config=config) as server:
            url, options = self.url(scheme, login.right(server.port))
            async with bounded(), slipstream.connect(url, reconnect_max_wait=0.1, **options, **tls) as conn:
                store = await conn.store("b")
                await store.put("k", b"v")
                await server.restart()

                async def answers() -> bool:
                    return conn.is_healthy() and await store.get("k") is not None

                await eventually(answers)
                async with store.watch() as watch:
                    shown += [repr(each) for each in (conn, store, watch, vars(conn), conn.capabilities)]
            url, options = self.url(scheme, login.wrong(server.port))
            shown.append(await refused(AuthenticationError, url, **options, **tls))
            rejected = slipstream.connect(url, op_timeout=PATIENT, **options, **tls)
            with pytest.raises(AuthenticationError) as caught:
                await rejected.connect()
            await rejected.shutdown()
            shown += [repr(rejected), repr(vars(rejected)), repr(caught.value), repr(vars(caught.value))]
            error: BaseException | None = caught.value
            while (error := error.__cause__ or error.__context__) is not None:
                shown.append(f"{error}{error!r}")
        everything = "\n".join([*shown, caplog.text])
        assert f"{scheme}://localhost:{server.port}" in everything
        for secret in login.secrets:
            assert secret not in everything
