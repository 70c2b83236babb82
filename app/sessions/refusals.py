"""Why a session is refused: a word for the operator's log, and what the caller is told."""

from app.user_ids import MAX_CHARACTERS

MAX_TOKEN_BYTES = 8192

_INVALID = "The session is not valid. Sign in again."

# The key is the word in the log, the value is the detail of the answer. docs/operating.md lists the cause of each word
# and its remedy. No word repeats anything that the session holds.
REASONS = {
    "malformed": _INVALID,
    "too long": f"The token is too long. Send one of {MAX_TOKEN_BYTES} bytes at most.",
    "wrong algorithm": _INVALID,
    "wrong signature": _INVALID,
    "unknown kid": _INVALID,
    "wrong encryption": _INVALID,
    "wrong secret": _INVALID,
    "no key is set": _INVALID,
    "no secret is set": _INVALID,
    "no session table is set": _INVALID,
    "no such database session": _INVALID,
    "expired": "The session has expired. Sign in again.",
    "not yet valid": "The session is not yet valid. Try again in a minute.",
    "wrong audience": _INVALID,
    "wrong issuer": _INVALID,
    "missing claim": _INVALID,
    "unusable claim": _INVALID,
    "not a UUID": (
        "The user id of this session is not a UUID, and signing in again does not change that. The service can make a"
        " UUID of any id (AUTH_USER_ID_NAMESPACE), or take one from another claim (AUTH_USER_ID_CLAIM)."
    ),
    "unusable user id": (
        f"The user id of this session is not a text of 1 to {MAX_CHARACTERS} characters, and signing in again does not"
        " change that. The site must give its users shorter ids, or name another claim (AUTH_USER_ID_CLAIM)."
    ),
}
# The word in the log for a request without any token or session cookie: most often a visitor who is not signed in.
NO_SESSION = "no session"


class InvalidSessionError(Exception):
    """A session that is refused: a key of REASONS, and the name of the claim if it is about one.

    Its text is for the log.
    """

    def __init__(self, reason: str, claim: str = "") -> None:
        super().__init__(f"{reason}: {claim}" if claim else reason)
        self.detail = REASONS[reason]
