"""Who a connection is to the server: passwords, tokens, `.creds`, which of them comes first, and what shows of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from slipstream.errors import AuthenticationError
from slipstream.stores.nats import NatsConnection, NatsConnectionConfig, nats_connect
from slipstream.testing._tenants import Key, Tenants, inline, seed_of
from slipstream.testing._waiting import bounded, eventually
from slipstream.testing.server import NatsServer

SECRET = "s3cr3t-hunter2"


def connection(url: str, **options: Any) -> NatsConnection:
    return NatsConnection(NatsConnectionConfig(url=SecretStr(url), **options))


def host(server: NatsServer) -> str:
    return f"127.0.0.1:{server.port}"


async def user_of(url: str, **options: Any) -> str:
    """Whom the server takes a connection with these options for."""
    client = await nats_connect(url, **options)
    try:
        answer = await client.request("$SYS.REQ.USER.INFO", timeout=5)
        return str(json.loads(answer.data)["data"]["user"])
    finally:
        await client.close()


class TestPasswords:
    @pytest.mark.parametrize("password", ["plain", "p@ss/w:rd?#%25, ü"])
    async def test_user_and_password_in_the_url(self, password: str) -> None:
        config = f'authorization {{ user: "us@er", password: {json.dumps(password, ensure_ascii=False)} }}'
        async with NatsServer(config=config) as server:
            url = f"nats://us%40er:{quote(password, safe='')}@{host(server)}"
            assert await user_of(url) == "us@er"

    async def test_a_token_in_the_url(self) -> None:
        async with (
            NatsServer(config=f'authorization {{ token: "{SECRET}" }}') as server,
            connection(f"nats://{SECRET}@{host(server)}") as conn,
        ):
            assert conn.is_healthy()
            assert SECRET not in repr(conn)

    async def test_the_login_of_one_server_holds_for_all_of_the_list(self) -> None:
        async with NatsServer(config=f'authorization {{ user: u, password: "{SECRET}" }}') as server:
            assert await user_of(f"nats://u:{SECRET}@127.0.0.1:1,{host(server)}") == "u"

    async def test_it_holds_for_the_servers_that_a_cluster_names(self) -> None:
        login = f'authorization {{ user: u, password: "{SECRET}" }}'
        cluster = 'cluster {{ name: c, listen: "127.0.0.1:-1", pool_size: -1, routes: [{}] }}'
        async with NatsServer(config=f"{login}\n{cluster.format('')}", jetstream=False) as first:
            ports = json.loads((first.directory / f"nats-server_{first.pid}.ports").read_text())
            route = ports["cluster"][0].replace("0.0.0.0", "127.0.0.1")
            config = f"{login}\n{cluster.format(json.dumps(route))}"
            async with NatsServer(config=config, jetstream=False) as second, bounded():
                client = await nats_connect(f"nats://u:{SECRET}@{host(first)}", reconnect_max_wait=0.2)
                try:

                    async def named() -> bool:
                        return any(str(second.port) in server.netloc for server in client.discovered_servers)

                    async def moved() -> bool:
                        url = client.connected_url
                        return client.is_connected and url is not None and url.port == second.port

                    await eventually(named)
                    await first.kill()
                    await eventually(moved)
                finally:
                    await client.close()


class TestRefused:
    @pytest.mark.parametrize(
        "config",
        [
            "authorization { user: u, password: right }",
            "authorization { token: right }",
            'authorization { users = [{ nkey: "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4" }] }',
        ],
        ids=["password", "token", "nkey"],
    )
    @pytest.mark.parametrize("login", [f"u:{SECRET}@", f"{SECRET}@", ""], ids=["password", "token", "none"])
    async def test_a_wrong_login(self, config: str, login: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with NatsServer(config=config) as server:
            conn = connection(f"nats://{login}{host(server)}", op_timeout=30)
            async with bounded():
                with pytest.raises(AuthenticationError, match=rf"nats://{host(server)} refused") as caught:
                    await conn.connect()
            assert not conn.is_healthy()
            error = caught.value
            assert not error.retryable
            shown = f"{error}{error!r}{error.__dict__}{error.__cause__!r}{error.__context__!r}{conn!r}{caplog.text}"
            assert SECRET not in shown
            await conn.shutdown()

    async def test_nats_connect_says_the_same(self) -> None:
        async with NatsServer(config="authorization { token: right }") as server:
            with pytest.raises(AuthenticationError):
                await nats_connect(f"nats://{SECRET}@{host(server)}")

    async def test_nothing_shows_while_a_login_is_used(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        async with NatsServer(config=f'authorization {{ user: u, password: "{SECRET}" }}') as server:
            async with connection(f"nats://u:{SECRET}@{host(server)}", reconnect_max_wait=0.2) as conn, bounded():
                store = await conn.store("b")
                await store.put("k", b"v")

                async def down() -> bool:
                    return not conn.is_healthy()

                async def up() -> bool:
                    return conn.is_healthy()

                await server.kill()
                await eventually(down)
                await server.start()
                await eventually(up)
                assert await store.get("k") is not None
            assert SECRET not in f"{caplog.text}{conn!r}{store!r}"
            assert f"reconnected to nats://{host(server)}" in caplog.text

    async def test_a_server_that_begins_to_refuse_is_retried_without_end(self, tmp_path: Path) -> None:
        login = tmp_path / "login.conf"
        login.write_text("authorization { token: first }")
        async with (
            NatsServer(tmp_path, config="include login.conf") as server,
            connection(f"nats://first@{host(server)}", reconnect_max_wait=0.1) as conn,
        ):

            async def refused_twice() -> bool:
                return not conn.is_healthy() and server.log().count("authentication error") >= 2

            async def up() -> bool:
                return conn.is_healthy()

            login.write_text("authorization { token: second }")
            await server.restart()
            await eventually(refused_twice)
            login.write_text("authorization { token: first }")
            await server.restart()
            await eventually(up)


class TestCreds:
    @pytest.fixture(scope="class")
    @staticmethod
    def tenants() -> Tenants:
        return Tenants()

    @pytest.fixture
    async def server(self, tenants: Tenants) -> AsyncIterator[NatsServer]:
        async with NatsServer(config=tenants.config()) as server:
            yield server

    def written(self, folder: Path, creds: str) -> Path:
        path = folder / "user.creds"
        path.write_text(creds)
        return path

    async def test_inline(self, server: NatsServer, tenants: Tenants) -> None:
        user, creds = tenants.user()
        assert await user_of(host(server), creds=inline(creds)) == user

    async def test_by_file(self, server: NatsServer, tenants: Tenants, tmp_path: Path) -> None:
        user, creds = tenants.user()
        assert await user_of(host(server), creds_file=self.written(tmp_path, creds)) == user
        assert await user_of(host(server), creds_file=str(tmp_path / "user.creds")) == user

    async def test_a_file_with_carriage_returns(self, server: NatsServer, tenants: Tenants, tmp_path: Path) -> None:
        user, creds = tenants.user()
        path = tmp_path / "user.creds"
        path.write_bytes(creds.replace("\n", "\r\n").rstrip().encode())
        assert await user_of(host(server), creds_file=path) == user

    async def test_a_store_works_with_them(self, server: NatsServer, tenants: Tenants) -> None:
        _, creds = tenants.user()
        async with connection(host(server), creds=inline(creds)) as conn:
            store = await conn.store("b")
            version = await store.put("k", b"v")
            assert [entry.version for entry in await store.scan()] == [version]

    async def test_inline_comes_before_the_file(self, server: NatsServer, tenants: Tenants, tmp_path: Path) -> None:
        user, creds = tenants.user()
        _, other = tenants.user()
        url = f"nats://u:{SECRET}@{host(server)}"
        assert await user_of(url, creds=inline(creds), creds_file=self.written(tmp_path, other)) == user
        assert await user_of(url, creds=inline(creds), creds_file=tmp_path / "missing") == user

    async def test_the_file_comes_before_the_url(self, server: NatsServer, tenants: Tenants, tmp_path: Path) -> None:
        user, creds = tenants.user()
        path = self.written(tmp_path, creds)
        assert await user_of(f"nats://u:{SECRET}@{host(server)}", creds_file=path) == user
        assert await user_of(f"nats://{SECRET}@{host(server)}", creds_file=path) == user

    async def test_the_url_is_not_fallen_back_to(self, tenants: Tenants, tmp_path: Path) -> None:
        _, creds = tenants.user()
        # This server would take the URL's password, and does not ask for signatures.
        async with NatsServer(config=f'authorization {{ user: u, password: "{SECRET}" }}') as server:
            url = f"nats://u:{SECRET}@{host(server)}"
            assert await user_of(url) == "u"
            for options in ({"creds": inline(creds)}, {"creds_file": self.written(tmp_path, creds)}):
                with pytest.raises(AuthenticationError):
                    await user_of(url, **options)

    async def test_a_user_of_nobody_is_refused(
        self, server: NatsServer, tenants: Tenants, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        _, creds = tenants.user(of=Key.of_account())
        seed = seed_of(creds)
        for options in ({"creds": inline(creds)}, {"creds_file": self.written(tmp_path, creds)}):
            conn = connection(host(server), **options)
            async with bounded():
                with pytest.raises(AuthenticationError) as caught:
                    await conn.connect()
            shown = f"{caught.value}{caught.value!r}{caught.value.__dict__}{conn!r}{conn._config!r}{caplog.text}"
            assert seed not in shown
            assert inline(creds)[:40] not in shown
            await conn.shutdown()

    @pytest.mark.parametrize("content", ["", "no credentials", "-----BEGIN NATS USER JWT-----"])
    async def test_a_file_that_holds_none_is_told_and_blocks_nothing(
        self, server: NatsServer, tmp_path: Path, content: str
    ) -> None:
        path = self.written(tmp_path, content)
        async with bounded():
            with pytest.raises(AuthenticationError, match="user JWT and seed") as caught:
                await connection(host(server), creds_file=path).connect()
        assert str(path) in str(caught.value)

    async def test_a_file_that_is_missing(self, server: NatsServer, tmp_path: Path) -> None:
        for path, why in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
            async with bounded():
                with pytest.raises(AuthenticationError, match=why) as caught:
                    await connection(host(server), creds_file=path).connect()
            assert str(path) in str(caught.value)

    async def test_a_seed_that_is_damaged(self, server: NatsServer, tenants: Tenants) -> None:
        _, creds = tenants.user()
        seed = seed_of(creds)
        changed = creds.replace(seed, seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:])
        async with bounded():
            with pytest.raises(AuthenticationError):
                await connection(host(server), creds=inline(changed)).connect()
        with pytest.raises(ValueError, match="holds no user JWT and seed") as caught:
            connection(host(server), creds=inline(creds.replace(seed, seed[:-4])))
        assert seed[:-4] not in f"{caught.value}{caught.value!r}"

    async def test_renewed_credentials_are_used_by_the_next_reconnect(
        self, server: NatsServer, tenants: Tenants, tmp_path: Path
    ) -> None:
        user, creds = tenants.user()
        path = self.written(tmp_path, creds)
        client = await nats_connect(host(server), creds_file=path, reconnect_max_wait=0.1)
        try:
            for renewed, content in (tenants.user(), (user, creds)):
                path.write_text("")  # not written yet: tried again
                await server.kill()
                async with bounded():
                    while client.is_connected:  # noqa: ASYNC110 - the helper takes no callbacks
                        await asyncio.sleep(0)
                await server.start()
                self.written(tmp_path, content)

                async def connected() -> bool:
                    return client.is_connected

                await eventually(connected)
                answer = await client.request("$SYS.REQ.USER.INFO", timeout=5)
                assert json.loads(answer.data)["data"]["user"] == renewed
        finally:
            await client.close()
