"""Who asks: invitations, sessions, the admin's password, and the tokens that forms carry."""

from __future__ import annotations

import hmac
import secrets
import sqlite3
import time
from dataclasses import dataclass
from typing import Literal

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from itsdangerous import BadSignature, URLSafeSerializer, URLSafeTimedSerializer

DAY = 86_400.0
SESSION = 30 * DAY
ADMIN_SESSION = DAY / 2
INVITATION = 14 * DAY


def hash_password(password: str) -> str:
    """An Argon2 hash of a password."""
    return PasswordHasher().hash(password)


def is_password(password: str, hashed: str) -> bool:
    """Whether a password is the one that was hashed."""
    try:
        return PasswordHasher().verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False


def new_password() -> str:
    """A random password that can be typed."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))


@dataclass(frozen=True, slots=True)
class Identity:
    """Signs and reads the tokens of a project; each kind has a salt of its own.

    Attributes:
      secret: Key of the project.
    """

    secret: bytes

    def cookie(self, kind: Literal["annotator", "admin"]) -> str:
        """Name of a cookie: browsers send cookies to every port of a host, so each project has names of its own."""
        return f"{kind}-{hmac.new(self.secret, b'cookie', 'sha256').hexdigest()[:8]}"

    def session(self, annotator: int) -> str:
        """A cookie of an annotator."""
        return self._timed("session").dumps(annotator)

    def annotator(self, cookie: str | None) -> int | None:
        """The annotator of a cookie; None where it is none of ours, or too old."""
        number = self._read("session", cookie, SESSION)
        return number if isinstance(number, int) else None

    def admin_session(self) -> str:
        """A cookie of the admin."""
        return self._timed("admin").dumps(secrets.token_hex(8))

    def is_admin(self, cookie: str | None) -> bool:
        """Whether a cookie is of the admin."""
        return self._read("admin", cookie, ADMIN_SESSION) is not None

    def form_token(self, cookie: str) -> str:
        """The token that what is sent with this cookie carries too."""
        return URLSafeSerializer(self.secret, salt="form").dumps(cookie)

    def is_form_token(self, cookie: str, token: str | None) -> bool:
        """Whether a token belongs to a cookie."""
        return token is not None and hmac.compare_digest(self.form_token(cookie).encode(), token.encode())

    def invitation(self, number: str) -> str:
        """The signed form of an invitation, for a link."""
        return URLSafeSerializer(self.secret, salt="invitation").dumps(number)

    def invited(self, token: str) -> str | None:
        """The invitation of a link; None where it is none of ours."""
        try:
            return URLSafeSerializer(self.secret, salt="invitation").loads(token)
        except BadSignature:
            return None

    def _timed(self, salt: str) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.secret, salt=salt)

    def _read(self, salt: str, cookie: str | None, age: float) -> object:
        try:
            return None if cookie is None else self._timed(salt).loads(cookie, max_age=int(age))
        except BadSignature:
            return None


def invite(project: sqlite3.Connection, annotator: int) -> str:
    """Add an invitation of an annotator; its number."""
    number, now = secrets.token_urlsafe(12), time.time()
    project.execute(
        "INSERT INTO invitation (id, annotator, made, until) VALUES (?, ?, ?, ?)",
        (number, annotator, now, now + INVITATION),
    )
    return number


def accept(project: sqlite3.Connection, number: str) -> int | None:
    """Use an invitation, once; its annotator. None where it was used, is too old, or its annotator is paused."""
    done = project.execute(
        """UPDATE invitation SET used = ?1 WHERE id = ?2 AND used IS NULL AND until > ?1
           AND (SELECT state FROM annotator WHERE id = annotator) = 'active' RETURNING annotator""",
        (time.time(), number),
    ).fetchone()
    return done and done[0]
