"""The codec of PostgreSQL's `text`, and of arrays of it, on every connection of ours.

U+0000 is legal in Matrix strings, and PostgreSQL's `text` cannot hold it. The codec escapes each text parameter and
unescapes each text in an answer, so that queries and rows hold strings as the specification has them. The escape is
reversible and leaves all other strings as they are: the columns stay readable and indexable. It holds for whole
values only, so SQL must not take text out of JSON.
"""

from typing import Any

import asyncpg

_TEXT, _TEXT_ARRAY = 25, 1009  # object ids; the same in every database
_ANY_FREE_ID = 2**32 - 1
_ARRAY = {
    "oid": _ANY_FREE_ID,
    "name": "_text",
    "ns": "pg_catalog",
    "kind": b"b",
    "basetype": 0,
    "elemtype": _TEXT,
    "elemdelim": ",",
    "range_subtype": None,
    "attrtypoids": None,
}


def escape(text: str) -> bytes:
    """Return the text as it is stored: U+001A becomes U+001A "1", U+0000 becomes U+001A "0"."""
    if "\x00" in text or "\x1a" in text:
        text = text.replace("\x1a", "\x1a1").replace("\x00", "\x1a0")
    return text.encode()


def unescape(stored: bytes) -> str:
    """Return the text from its stored form."""
    text = stored.decode()
    if "\x1a" in text:
        text = text.replace("\x1a0", "\x00").replace("\x1a1", "\x1a")
    return text


def set_text_codec(conn: asyncpg.Connection) -> None:
    """Let the connection escape and unescape all text. Sends nothing to the server."""
    # `set_type_codec` would ask the server for the type, and it has no effect on arrays: asyncpg has a codec of its own
    # for text[], which its look-up finds first. The derived array codec under another id uses the new codec of `text`.
    # Not the text format: asyncpg drops empty strings from arrays then.
    settings: Any = conn._protocol.get_settings()  # type: ignore[attr-defined]
    settings.add_python_codec(
        typeoid=_TEXT,
        typename="text",
        typeschema="pg_catalog",
        typeinfos=(),
        typekind="scalar",
        encoder=escape,
        decoder=unescape,
        format="binary",
    )
    settings.register_data_types([_ARRAY])
    settings.set_builtin_type_codec(_TEXT_ARRAY, "_text", "pg_catalog", "array", _ANY_FREE_ID, None)
