"""Who may do what over HTTP: tokens, sessions, roles, and requests that another site made a browser send."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import threading
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

from blemish.station.users import User
from blemish.station.web.options import LOOPBACK, WebOptions

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.requests import HTTPConnection

    from blemish.station.users import Users

COOKIE = "blemish_session"
SAFE = {"GET", "HEAD", "OPTIONS"}
LOCAL = User("local", "admin")
# Wrong passwords of one address or name, after which it has to wait.
MAX_WRONG, WRONG_S = 5, 60.0


class Visitor(NamedTuple):
    """Who sends a request.

    Attributes:
        csrf: token that the pages send with each change.
        key: of the session; "" without one.
    """

    user: User
    csrf: str
    key: str = ""


class Access:
    """Decides who a request is from, and whether it may do what it asks for."""

    def __init__(self, users: Users, options: WebOptions) -> None:
        self.users, self._options = users, options
        self._csrf = secrets.token_urlsafe(32)
        self._lock, self._wrong = threading.Lock(), dict[str, list[float]]()

    @property
    def has_users(self) -> bool:
        """Whether anyone has to log in."""
        return len(self.users) > 0

    def visitor(self, request: HTTPConnection) -> Visitor | None:
        """Return who sends a request; None if it does not say so, and has to."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            user = self.users.by_token(token.strip())
            return None if user is None else Visitor(user, "")
        if not self.has_users:
            return Visitor(LOCAL, self._csrf)
        key = request.cookies.get(COOKIE, "")
        session = self.users.session(key) if key else None
        return None if session is None else Visitor(session.user, session.csrf, key)

    def require(self, request: Request, role: str) -> Visitor:
        """Return who sends a request.

        Raises:
            HTTPException: 401 if it does not say so, 403 if it may not do this, or another site made the browser send
                it.
        """
        visitor = self.visitor(request)
        if visitor is None:
            raise HTTPException(401, "user: expected a token or a session, got none.", {"WWW-Authenticate": "Bearer"})
        if request.method not in SAFE and visitor.csrf:
            self.check_origin(request)
            given = request.headers.get("x-csrf-token", "")
            if visitor.key and not hmac.compare_digest(given.encode(), visitor.csrf.encode()):
                raise HTTPException(403, "X-CSRF-Token: expected that of the page, got another. Load the page again.")
        if not visitor.user.may(role):
            text = f"user: expected the role {role}, got {visitor.user.role}. Ask an admin of the station."
            raise HTTPException(403, text)
        return visitor

    @staticmethod
    def check_origin(request: HTTPConnection) -> None:
        """Refuse a change that a page of another site made a browser send.

        Raises:
            HTTPException: 403.
        """
        origin, host = request.headers.get("origin"), request.headers.get("host", "")
        is_foreign = origin is not None and urlsplit(origin).netloc != host
        if is_foreign or request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise HTTPException(403, "Origin: expected a page of this station, got another site.")

    def check_host(self, request: HTTPConnection) -> None:
        """Refuse a name of the host that a stranger may have pointed at this machine, if only it is to be reached.

        Raises:
            HTTPException: 421.
        """
        if not self._options.is_loopback:
            return
        try:
            name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        except ValueError:
            name = ""
        if name not in LOOPBACK and not _is_loopback_address(name):
            raise HTTPException(421, "Host: expected localhost, got another name. Start the station with --host.")

    def log_in(self, name: str, password: str, address: str) -> User:
        """Return the user of a name and password.

        Raises:
            HTTPException: 401 if they are wrong, 429 after five wrong ones within a minute.
        """
        keys = (f"name {name[:64]}", f"address {address}")
        now = time.monotonic()
        with self._lock:
            self._wrong = {key: [t for t in times if now - t < WRONG_S] for key, times in self._wrong.items()}
            if any(len(self._wrong.get(key, ())) >= MAX_WRONG for key in keys):
                text = f"password: expected the right one within {MAX_WRONG} tries. Wait a minute."
                raise HTTPException(429, text, {"Retry-After": f"{WRONG_S:.0f}"})
        user = self.users.by_password(name, password)
        if user is None:
            with self._lock:
                for key in keys:
                    self._wrong.setdefault(key, []).append(now)
            raise HTTPException(401, "user and password: expected those of a user, got others.")
        return user


def _is_loopback_address(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
