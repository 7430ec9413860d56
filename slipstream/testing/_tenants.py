"""An operator, accounts and users for servers that ask for JWTs, as the `nsc` tool makes them.

By hand: what PyPI has for it (nats-jwt, nats-nsc) is hardly used, and signing three claims takes no more than this.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nkeys  # type: ignore[import-untyped]


@dataclass
class Key:
    """An nkey and the JWTs that it signs.

    Attributes:
        seed: the secret, as text.
        public: what a server knows of it.
    """

    prefix: int
    seed: bytes = field(init=False, repr=False)
    pair: Any = field(init=False, repr=False)
    public: str = field(init=False)

    def __post_init__(self) -> None:
        self.seed = bytes(nkeys.encode_seed(os.urandom(32), self.prefix))
        self.pair = nkeys.from_seed(bytearray(self.seed))
        self.public = self.pair.public_key.decode()

    @classmethod
    def of_user(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_USER)

    @classmethod
    def of_account(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_ACCOUNT)

    @classmethod
    def of_operator(cls) -> Key:
        return cls(nkeys.PREFIX_BYTE_OPERATOR)

    def sign(self, name: str, subject: str, claims: dict[str, Any], **more: int) -> str:
        """A JWT about the subject; `more` are claims beside those of NATS: `exp`, seconds since 1970."""
        parts = [
            {"typ": "JWT", "alg": "ed25519-nkey"},
            {"jti": name, "iat": 1700000000, "iss": self.public, "name": name, "sub": subject, "nats": claims, **more},
        ]
        text = ".".join(_unpadded(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_unpadded(self.pair.sign(text.encode()))}"


class Tenants:
    """An operator with one account that has JetStream, and users of it."""

    def __init__(self) -> None:
        self.operator = Key.of_operator()
        self.account = Key.of_account()
        self.system = Key.of_account()

    def config(self) -> str:
        """What the server is configured with."""
        operator = self.operator.sign("operator", self.operator.public, {"type": "operator", "version": 2})
        return f"""
            operator: {operator}
            system_account: {self.system.public}
            resolver: MEMORY
            resolver_preload: {{
                {self.system.public}: {self._account(self.system, storage=0)}
                {self.account.public}: {self._account(self.account, storage=-1)}
            }}"""

    def user(
        self, *, of: Key | None = None, may_not_publish: Sequence[str] = (), expires: int | None = None
    ) -> tuple[str, str]:
        """The public key of a new user and the content of its `.creds` file.

        Args:
            of: the account that signs; None is the one that the server knows.
            expires: seconds since 1970.
        """
        key = Key.of_user()
        claims: dict[str, Any] = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
        claims |= {"pub": {"deny": list(may_not_publish)} if may_not_publish else {}, "sub": {}}
        times = {} if expires is None else {"exp": expires}
        jwt = (of or self.account).sign("user", key.public, claims, **times)
        return key.public, (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "NKEY Seed printed below can be used to sign and prove identity.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{key.seed.decode()}\n------END USER NKEY SEED------\n"
        )

    def _account(self, key: Key, *, storage: int) -> str:
        unlimited = dict.fromkeys(("subs", "conn", "leaf", "imports", "exports", "data", "payload"), -1)
        jetstream = dict.fromkeys(("mem_storage", "disk_storage"), storage) | {"streams": -1, "consumer": -1}
        limits = unlimited | jetstream | {"wildcards": True}
        return self.operator.sign("account", key.public, {"type": "account", "version": 2, "limits": limits})


def seed_of(creds: str) -> str:
    """The secret in a `.creds` file."""
    (seed,) = (line for line in creds.splitlines() if line.startswith("SU"))
    return seed


def inline(creds: str) -> str:
    """The file as the option `creds` takes it."""
    return base64.b64encode(creds.encode()).decode()


def _unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
