"""People and programs that may use a station: passwords, tokens, roles and sessions."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from blemish.errors import InputError, install, message
from blemish.station.errors import StationError, UnknownError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

    from blemish.station.database import Database

# Each role may do what those before it may.
ROLES = ("viewer", "operator", "admin")
NAME = re.compile(r"[\w.@-]{1,64}")
LEAST_PASSWORD = 10
SESSION_S = 12 * 3600.0
# A check of a password takes 64 MiB and 50 ms: more at once than this wait.
CHECKS_AT_ONCE = 2


class User(NamedTuple):
    """A person or a program, and what it may do.

    Attributes:
        role: "viewer" sees, "operator" also inspects and reviews, "admin" also changes models and thresholds.
    """

    name: str
    role: str

    def may(self, role: str) -> bool:
        """Return whether the user may do what a role may."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Session(NamedTuple):
    """A user who has logged in by a browser.

    Attributes:
        csrf: token that pages of this session send with each change.
    """

    user: User
    csrf: str


class Users:
    """The users in the records of a station. Needs `blemish[station]` for passwords.

    Passwords are kept as argon2id hashes, tokens and keys of sessions as SHA-256: those are random, and can't be
    guessed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)
        self._unknown = ""

    def __len__(self) -> int:
        return int(self._database.rows("SELECT COUNT(*) AS n FROM users")[0]["n"])

    def list(self) -> list[User]:
        """Return all users by name."""
        return [User(*row) for row in self._database.rows("SELECT name, role FROM users ORDER BY name")]

    def add(self, name: str, password: str, role: str, *, who: str) -> User:
        """Add a user, or give one another password and role; sessions of the old ones end.

        Raises:
            InputError: if the name or the role is none, or the password too short.
            StationError: if argon2-cffi is not installed.
        """
        if not NAME.fullmatch(name):
            raise InputError(message("user", "letters, digits and . @ - _, at most 64", repr(name)[:80]))
        if role not in ROLES:
            raise InputError(message("role", ", ".join(ROLES), repr(role)))
        if not LEAST_PASSWORD <= len(password) <= 1000:
            raise InputError(message("password", f"at least {LEAST_PASSWORD} characters", str(len(password))))
        hashed = _hasher().hash(password)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE user = ?", (name,))
            connection.execute(
                "INSERT OR REPLACE INTO users VALUES (?, ?, ?, NULL, ?)", (name, role, hashed, time.time())
            )
            self._database.record(connection, who, "user set", name, role=role)
        return User(name, role)

    def remove(self, name: str, *, who: str) -> None:
        """Remove a user with its token and its sessions.

        Raises:
            UnknownError: if there is none of that name.
        """
        self._known(name)
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE user = ?", (name,))
            connection.execute("DELETE FROM users WHERE name = ?", (name,))
            self._database.record(connection, who, "user removed", name)

    def new_token(self, name: str, *, who: str) -> str:
        """Return a new token of a user, for programs; the old one is no longer valid. It can't be shown again.

        Raises:
            UnknownError: if there is no such user.
        """
        self._known(name)
        token = secrets.token_urlsafe(32)
        with self._database.transaction() as connection:
            connection.execute("UPDATE users SET token = ? WHERE name = ?", (_sha256(token), name))
            self._database.record(connection, who, "token made", name)
        return token

    def by_password(self, name: str, password: str) -> User | None:
        """Return the user of a name and a password, in the same time whether there is such a user or not."""
        rows = self._database.rows("SELECT name, role, password FROM users WHERE name = ?", (name,))
        with self._checks:
            hashed = rows[0]["password"] if rows else self._hash_of_nobody()
            is_right = _is_password(hashed, password)
        return User(rows[0]["name"], rows[0]["role"]) if rows and is_right else None

    def by_token(self, token: str) -> User | None:
        """Return the user of a token."""
        hashed = _sha256(token)
        rows = self._database.rows("SELECT name, role, token FROM users WHERE token = ?", (hashed,))
        is_right = bool(rows) and hmac.compare_digest(rows[0]["token"], hashed)
        return User(rows[0]["name"], rows[0]["role"]) if is_right else None

    def start_session(self, user: User) -> str:
        """Return the key of a new session of a user, for a cookie."""
        key, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), time.time()
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE until < ?", (now,))
            row = (_sha256(key), user.name, csrf, now + SESSION_S)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
            self._database.record(connection, user.name, "logged in", user.name)
        return key

    def session(self, key: str) -> Session | None:
        """Return the session of a key, if it has not ended."""
        query = """SELECT u.name, u.role, s.csrf FROM sessions s JOIN users u ON u.name = s.user
            WHERE s.key = ? AND s.until BETWEEN ? AND ?"""
        now = time.time()
        rows = self._database.rows(query, (_sha256(key), now, now + 2 * SESSION_S))
        return Session(User(rows[0]["name"], rows[0]["role"]), rows[0]["csrf"]) if rows else None

    def end_session(self, key: str) -> None:
        """End a session."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE key = ?", (_sha256(key),))

    def _known(self, name: str) -> None:
        if not any(user.name == name for user in self.list()):
            raise UnknownError(message("user", "one that was added", repr(name)[:80]))

    def _hash_of_nobody(self) -> str:
        if not self._unknown:
            self._unknown = _hasher().hash(secrets.token_urlsafe(16))
        return self._unknown


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _hasher() -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
    except ImportError:
        todo = f"{install('blemish[station]')}."
        raise StationError(message("passwords", "argon2-cffi", "none installed", todo=todo)) from None
    return PasswordHasher()  # argon2id with the parameters of RFC 9106, section 4, second choice


def _is_password(hashed: str, password: str) -> bool:
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return _hasher().verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False
