"""Values that no honest client sends."""

import json
from collections.abc import Iterator
from typing import Any

#: Description -> body that is not JSON. The server must answer M_NOT_JSON.
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "a brace": b"{",
    "a word": b"hello",
    "a form": b"user=x&password=y",
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // x",
    "two values": b"{} {}",
    "trailing comma": b'{"a": 1,}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "leading zero": b'{"a": 01}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "lone surrogate": rb'{"a": "\ud800"}',
    "lone surrogate in a key": rb'{"\udfff": 1}',
    "raw NUL": b'{"a": "\x00"}',
    "NUL behind": b"{}\x00",
    "gzip": bytes.fromhex("1f8b08000000000000036bae0500"),
}
#: JSON that is not an object.
NOT_OBJECT: tuple[bytes, ...] = (b"[]", b"null", b"true", b'"x"', b"1", b"1.5", b"[{}]")


def nested(levels: int, *, objects: bool) -> bytes:
    """Return an object with arrays or objects nested `levels` deep."""
    opening, closing = (b'{"a":', b"}") if objects else (b"[", b"]")
    return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"


#: Values of every type, for keys that need another type.
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**53,
    2**63,
    2**64,
    -(2**70),
    "",
    "x",
    "\x00",
    "\x1a0",
    "\u2028",
    "a" * 70_000,
    [],
    [None],
    [[]],
    [{}],
    {},
    {"": None},
    {"a": {"b": []}},
    {"type": 1, "user": [], "session": {}, "signatures": {"a": 1}},
)

#: Numbers that only raw JSON can express.
RAW_NUMBERS: tuple[bytes, ...] = (
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"0.1",
    b"-0",
    b"9" * 500,
    b"9" * 5000,
    b"1E5",
)

#: Path parameters, percent-encoded.
PATH_VALUES: tuple[str, ...] = (
    "x",
    "%00",
    "a%00b",
    "%1A0",
    "%0a",
    "%0d%0aX-Evil:1",
    "%20",
    "%2F",
    "..",
    "%2e%2e%2f",
    "%E2%80%8B",
    "%F0%9F%90%9D",
    "%25",
    "%2525",
    "+",
    "@",
    "!",
    "%23",
    "$",
    "@:",
    "!:",
    "@a",
    "!a",
    "%23a",
    "@a:",
    "@a:b%00",
    "@%00:localhost",
    "!%00:localhost",
    "%23%00:localhost",
    "$%00",
    "@a:b:c:d",
    "@a:b%20c",
    "!a:[::1]:99999999",
    "@A:LOCALHOST",
    "0",
    "-1",
    "1e9",
    "99999999999999999999",
    "a" * 256,
    "@" + "a" * 300 + ":localhost",
    "!" + "a" * 300 + ":localhost",
    "%23" + "a" * 300 + ":localhost",
    "$" + "a" * 300,
    "%C3%A9" * 200,
    "a" * 4000,
    "m.room.create",
    "m.room.member",
    "null",
    "{}",
    ";",
    "'",
    '"%3B--',
    "%EF%BF%BF",
)
#: Percent-encodings that do not decode to text.
BROKEN_ESCAPES: tuple[str, ...] = (
    "%",
    "%4",
    "%zz",
    "a%",
    "%u0041",
    "%%41",
    "%ff",
    "%C3",
    "%ED%A0%80",
    "%F8%88%80%80%80",
    "%C0%80",
    "%C0%AF",
)

#: Values of any query parameter.
QUERY_VALUES: tuple[str, ...] = (
    "",
    "x",
    "-1",
    "0",
    "1.5",
    "1e9",
    "NaN",
    "99999999999999999999",
    "9" * 5000,
    "%00",
    "%1a",
    "%ff",
    "%zz",
    "%ED%A0%80",
    "true",
    "TRUE",
    "[]",
    "null",
    "{",
    "%7B%7D",
    "%7B%22room%22%3A1%7D",
    "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A-1%7D%7D%7D",
    "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A1e400%7D%7D%7D",
    "%7B%22types%22%3A%5B1%5D%7D",
    "%7B%22limit%22%3A18446744073709551616%7D",
    "%7B%22a%22%3A%22%5Cud800%22%7D",
    "%7B%22types%22%3A%5B%22%5Cu0000%22%5D%7D",
    "%7B%22a%22%3A" * 300 + "1" + "%7D" * 300,
    "s1_2_3",
    "s" * 2000,
    "%F0%9F%90%9D",
    "a;b",
    "%C3%A9",
    "skp",
    "1%20OR%201=1",
)
#: Whole query strings.
QUERY_STRINGS: tuple[str, ...] = (
    "&" * 3000,
    "=",
    "==&==",
    "?",
    "??",
    "a" * 8000,
    "&".join(f"a{n}=1" for n in range(500)),
    "access_token=",
    "access_token=%00",
    "access_token=%ff",
    "access_token=a&access_token=b",
    "user_id=%00",
    "user_id=@x:y",
    "device_id=%00",
    "limit=1&limit=x",
    "timeout=-1",
    "timeout=99999999999999999999",
    "%00",
    "%",
    "filter=%7B%22room%22%3A%7B%22rooms%22%3A" + "%5B" * 150,
)

#: Invalid access tokens, without "Bearer ".
TOKENS: tuple[str, ...] = (
    "x",
    "skp_000_",
    "skp_3ff_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "skp_zzz_x",
    "skp_fff_x",
    "a" * 5000,
    "%C3%BF",
    "%00",
    "a b c",
    "Bearer x",
    "eyJhbGciOiJub25lIn0.e30.",
    "'--",
)


def keys_of(body: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the path to every value inside a JSON value: keys and indexes, outermost first."""
    items = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in items:
        yield (key,)
        for rest in keys_of(value):
            yield (key, *rest)


def replaced(body: Any, way: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy of the JSON value with the value at a path replaced."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for step in way[:-1]:
        inner = inner[step]
    inner[way[-1]] = value
    return copy


def without(body: Any, way: tuple[str | int, ...]) -> Any:
    """Return a copy of the JSON value without the key or entry at a path."""
    copy = json.loads(json.dumps(body))
    inner = copy
    for step in way[:-1]:
        inner = inner[step]
    del inner[way[-1]]
    return copy
