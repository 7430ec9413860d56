"""The options of a NATS connection: what is taken, what is refused, and that no secret shows."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import nats.errors
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from slipstream.stores.nats import NatsConnection, NatsConnectionConfig
from slipstream.stores.nats.config import DEFAULT_URL, auth_options, decode_creds, redact_url, split_servers

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy

SECRET = "hunter2"
JWT = "eyJ0eXAiOiJKV1QifQ.eyJqdGkiOiJYIn0.c2ln"
SEED = "SUAA" + "A" * 54
CREDS = (
    f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n\n"
    "************************* IMPORTANT *************************\n"
    "NKEY Seed printed below can be used to sign and prove identity.\n\n"
    f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(**options: Any) -> NatsConnectionConfig:
    return NatsConnectionConfig(**options)


class TestServers:
    def test_the_default(self) -> None:
        assert config().servers == [DEFAULT_URL]

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("", []),
            (" , ,", []),
            ("host", ["nats://host"]),
            ("host:4222", ["nats://host:4222"]),
            ("nats://a:1,nats://b:2", ["nats://a:1", "nats://b:2"]),
            ("nats://a:1, b:2 ,c", ["nats://a:1", "nats://b:2", "nats://c"]),
            ("tls://a,b", ["tls://a", "tls://b"]),
            ("wss://a,b", ["wss://a", "wss://b"]),
            ("a,tls://b", ["nats://a", "tls://b"]),
            ("nats://[::1]:4222,[::2]:4222", ["nats://[::1]:4222", "nats://[::2]:4222"]),
        ],
    )
    def test_split(self, url: str, expected: list[str]) -> None:
        assert split_servers(url) == expected

    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("nats://user:hunter2@host:4222", "nats://host:4222"),
            ("nats://hunter2@host:4222", "nats://host:4222"),
            ("nats://user:hunter2@a:1,user:hunter2@b:2", "nats://a:1,nats://b:2"),
            ("nats://user:hunt%65r2@[::1]:4222", "nats://[::1]:4222"),
            ("wss://host/path?token=hunter2#hunter2", "wss://host/path"),
            ("nats://us@er:hunter2@host", "nats://host"),
            ("user:hunter2@host", "nats://host"),
            ("nats://host:4222", "nats://host:4222"),
        ],
    )
    def test_redact(self, url: str, expected: str) -> None:
        assert redact_url(url) == expected
        assert config(url=url).safe_url == expected

    @pytest.mark.parametrize(
        ("url", "servers"),
        [
            ("nats://user:hunter2@host:4222", ["nats://host:4222"]),
            ("NATS://hunter2@[::1]:4222,b", ["nats://[::1]:4222", "nats://b"]),
            ("wss://user:hunter2@host/path?x=1", ["wss://host/path?x=1"]),
        ],
    )
    def test_the_addresses_carry_no_login(self, url: str, servers: list[str]) -> None:
        assert config(url=url).servers == servers

    secrets = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=3, max_size=12).map(
        "s3cr3t{}".format
    )

    @UNHURRIED
    @given(user=secrets, password=secrets, port=st.integers(1, 65535))
    def test_no_login_survives(self, user: str, password: str, port: int) -> None:
        for login in (f"{user}:{password}", user, f":{password}"):
            url = f"nats://{login}@[::1]:{port},nats://h:{port}"
            assert redact_url(url) == f"nats://[::1]:{port},nats://h:{port}"


class TestAuthPriority:
    """First match wins: creds, creds_file, nkey_seed, nkey_file, the URL, none."""

    @pytest.fixture
    def creds_file(self, tmp_path: Path) -> Path:
        path = tmp_path / "user.creds"
        path.write_text(CREDS.replace(JWT, f"{JWT}file"))
        return path

    url = f"nats://user:{SECRET}@host"

    def test_creds_before_all(self, creds_file: Path) -> None:
        options = auth_options(config(creds=encoded(CREDS), creds_file=creds_file, url=self.url))
        assert options.keys() == {"user_credentials"}
        assert f"{JWT}\n" in str(options["user_credentials"])

    def test_creds_file_before_the_url(self, creds_file: Path) -> None:
        options = auth_options(config(creds_file=creds_file, url=self.url))
        assert options.keys() == {"user_credentials"}
        assert f"{JWT}file\n" in str(options["user_credentials"].data)

    def test_creds_before_an_nkey(self, creds_file: Path) -> None:
        options = auth_options(config(creds_file=creds_file, nkey_seed=SEED, nkey_file=creds_file))
        assert options.keys() == {"user_credentials"}

    def test_an_nkey_before_the_url(self, tmp_path: Path) -> None:
        both = auth_options(config(nkey_seed=SEED, nkey_file=tmp_path / "nk", url=self.url))
        assert both == {"nkeys_seed_str": SEED}
        assert auth_options(config(nkey_file=tmp_path / "nk", url=self.url)) == {"nkeys_seed": str(tmp_path / "nk")}

    @pytest.mark.parametrize(
        ("url", "options"),
        [
            ("nats://user:hunter2@host", {"user": "user", "password": "hunter2"}),
            ("nats://hunter2@host", {"token": "hunter2"}),
            ("nats://user:@host", {"user": "user", "password": ""}),
            ("nats://:hunter2@host", {"user": "", "password": "hunter2"}),
            ("nats://a,nats://user:hunter2@b,c", {"user": "user", "password": "hunter2"}),
            ("nats://us%40er:p%2Fa%3As%25s@host", {"user": "us@er", "password": "p/a:s%s"}),
            ("nats://a%2Fb@host", {"token": "a/b"}),
            ("nats://user:pa:ss@host", {"user": "user", "password": "pa:ss"}),
            ("nats://host", {}),
        ],
    )
    def test_the_url_before_none(self, url: str, options: dict[str, str]) -> None:
        assert auth_options(config(url=url)) == options

    def test_two_logins_in_one_url_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="share one user and password") as caught:
            config(url=f"nats://a:{SECRET}@h1,nats://b:{SECRET}@h2")
        assert SECRET not in str(caught.value)
        assert config(url=f"nats://a:{SECRET}@h1,nats://a:{SECRET}@h2,h3").servers == [
            "nats://h1",
            "nats://h2",
            "nats://h3",
        ]

    def test_a_renewed_file_is_read_again(self, creds_file: Path) -> None:
        credentials = auth_options(config(creds_file=creds_file))["user_credentials"]
        creds_file.write_text(CREDS.replace(JWT, f"{JWT}renewed"))
        assert f"{JWT}renewed\n" in credentials.data

    @pytest.mark.parametrize("content", ["", "nothing", CREDS[:-70], CREDS.replace("SEED", "SEAT"), "\x00\xff"])
    def test_a_file_without_credentials_is_an_error_and_no_endless_loop(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "bad.creds"
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(nats.errors.InvalidUserCredentialsError):
            _ = auth_options(config(creds_file=path))["user_credentials"].data

    def test_a_missing_file_is_an_oserror(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            _ = auth_options(config(creds_file=tmp_path / "none"))["user_credentials"].data

    @pytest.mark.parametrize(
        "change", [lambda text: text.replace("\n", "\r\n"), str.rstrip, lambda text: f"\ufeff\n{text}"]
    )
    def test_carriage_returns_and_missing_line_ends_are_read(self, tmp_path: Path, change: Any) -> None:
        text = change(CREDS)
        assert f"\n{JWT}\n" in decode_creds(encoded(text))
        assert f"\n{SEED}\n" in decode_creds(encoded(text))
        (tmp_path / "x.creds").write_bytes(text.encode())
        assert "\r" not in auth_options(config(creds_file=tmp_path / "x.creds"))["user_credentials"].data

    def test_base64_may_be_wrapped(self) -> None:
        wrapped = base64.encodebytes(CREDS.encode()).decode()
        assert wrapped.count("\n") > 1
        assert decode_creds(wrapped) == decode_creds(encoded(CREDS))


class TestRefused:
    @pytest.mark.parametrize(
        "options",
        [
            {"url": ""},
            {"url": ","},
            {"url": "http://host"},
            {"url": "nats://"},
            {"url": "nats://:4222"},
            {"url": "nats://user:hunter2@"},
            {"url": "nats://user:hunter2@host:port"},
            {"url": "nats://user:hunter2@host:99999"},
            {"url": "nats://user:hunter2@host:0"},
            {
                "url": "nats://user:[hunter2]@host"
            },  # urlsplit repeats it: "'hunter2' does not appear to be an IPv6 address"
            {"url": "nats://user:hunter2℀@host"},  # urlsplit repeats it: "netloc '...' contains invalid characters"
            {"url": "nats://user:hunter2@[::1"},
            {"url": "nats://user:1234/hunter2@host"},  # would be port 1234 of the host `user`
            {"url": "nats://user:1234?hunter2@host"},
            {"url": "nats://user:1234#hunter2@host"},
            {"url": "nats://user:hunter2@host,ws://user:hunter2@host"},
            {"url": "hunter2://host"},
            {"creds": "hunter2"},
            {"creds": encoded("hunter2")},
            {"creds": encoded(CREDS).replace("=", "") + "hunter2!"},
            {"creds": ""},
            {"nkey_seed": "hunter2"},
            {"nkey_seed": f"{SEED}\n"},
            {"nkey_seed": SEED.replace("SU", "SA")},  # an account's
            {"creds": encoded(CREDS)[:40]},
            {"url": "nats://user:hunter2@host", "op_timeout": 0},
            {"url": "nats://user:hunter2@host", "nonsense": 1},
            {"op_timeout": -1},
            {"op_timeout": float("inf")},
            {"op_timeout": float("nan")},
            {"connect_timeout": 0},
            {"ping_interval": 0},
            {"max_pings_out": 0},
            {"reconnect_max_wait": 0},
            {"heartbeat": 0.05},
            {"inbox_prefix": ""},
            {"inbox_prefix": "a..b"},
            {"inbox_prefix": "a.*"},
            {"inbox_prefix": "_INBOX\n"},
            {"domain": "a.b"},
            {"domain": "hub\n"},
            {"domain": ""},
        ],
    )
    def test_and_no_secret_repeated(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="validation error") as caught:
            config(**options)
        error = caught.value
        assert isinstance(error, ValidationError)
        shown = [str(error), repr(error), str(error.errors()), repr(error.errors()), str(error.__cause__)]
        assert SECRET not in " ".join(shown)
        assert encoded(CREDS)[:40] not in " ".join(shown)
        assert SEED[2:] not in " ".join(shown)

    def test_options_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            config().op_timeout = 1.0

    @UNHURRIED
    @given(st.text(max_size=30).map("nats://user:hunter2{}@host".format))
    def test_any_password_is_taken_or_refused_without_repeating_it(self, url: str) -> None:
        try:
            accepted = config(url=url)
        except ValidationError as error:
            assert SECRET not in f"{error}{error!r}{error.errors()}"  # noqa: PT017 - most are accepted
        else:
            assert accepted.safe_url.count("@") == 0
            assert SECRET not in accepted.safe_url or "," in url


class TestNothingShows:
    @pytest.mark.parametrize("url", [f"nats://user:{SECRET}@host", f"nats://{SECRET}@host", f"nats://h?token={SECRET}"])
    def test_a_secret_in_the_url(self, url: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        options = config(url=url)
        connection = NatsConnection(options)
        shown = f"{options} {options!r} {options.model_dump()} {options.model_dump_json()} {connection} {connection!r}"
        assert SECRET not in shown
        assert SECRET not in caplog.text
        assert options.url.get_secret_value() == url

    def test_the_creds(self) -> None:
        options = config(creds=encoded(CREDS))
        shown = f"{options} {options!r} {options.model_dump()} {options.model_dump_json()} {NatsConnection(options)!r}"
        assert encoded(CREDS)[:40] not in shown
        assert json.loads(options.model_dump_json())["creds"] == "**********"

    def test_the_nkey_seed(self) -> None:
        options = config(nkey_seed=SEED)
        shown = f"{options} {options!r} {options.model_dump()} {options.model_dump_json()} {NatsConnection(options)!r}"
        assert SEED not in shown

    def test_secrets_may_come_as_such(self) -> None:
        options = config(url=SecretStr(f"nats://user:{SECRET}@host"), creds=SecretStr(encoded(CREDS)))
        assert options.servers == ["nats://host"]
        assert options.creds is not None

    def test_a_connection_shows_where_it_goes_and_how_it_is(self) -> None:
        assert repr(NatsConnection(config(url="nats://user:hunter2@host:4222"))) == (
            "NatsConnection(nats://host:4222, not connected)"
        )
