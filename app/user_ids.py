"""Which learner a user id means (contract §5).

Sessions, Stripe's events and the tasks all use this one rule, so a user is the same learner in all of them.
"""

import re
from uuid import UUID, uuid5

# Any version: a site's users may have UUIDs of other versions than 4. uuid.UUID would also accept braces, `urn:uuid:`
# and a UUID without hyphens.
UUID_TEXT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
MAX_CHARACTERS = 255


def learner_id(user_id: object, namespace: UUID | None) -> str | None:
    """Return the UUID of the learner whom a site's user id means, in lower case. Return None if the id is malformed.

    If the user id is a UUID, it is the id of the learner. Any other user id becomes the UUIDv5 (RFC 9562 §5.5) of
    `namespace` and of its UTF-8 text, which has 1 to 255 characters. An integer counts as its decimal text. Without a
    namespace, every id that is not a UUID is malformed.
    """
    # In Python, true and false are integers too.
    text = str(user_id) if isinstance(user_id, int) and not isinstance(user_id, bool) else user_id
    if not isinstance(text, str):
        return None
    if UUID_TEXT.fullmatch(text):
        return text.lower()
    if namespace is None or not 0 < len(text) <= MAX_CHARACTERS:
        return None
    try:
        return str(uuid5(namespace, text))
    except UnicodeEncodeError:  # JSON can spell one half of a surrogate pair, which has no UTF-8
        return None
