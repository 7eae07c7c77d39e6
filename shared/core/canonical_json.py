"""Decoding of JSON, canonical JSON, and unpadded base64. Spec: appendices, "Canonical JSON", "Unpadded Base64".

`canonicaljson` is the reference. `orjson` with sorted keys gives the same bytes fifteen times faster, except for
floats (NaN becomes null, 1e-07 becomes 1e-7) and for values that it refuses with a TypeError (integers beyond 64
bits, nesting beyond 254 levels). So values without floats go to orjson and the rest to the reference. A differential
test checks that both agree.
"""

import base64
import binascii
import json
from typing import Any

import canonicaljson
import orjson

from shared.core.errors import EventFormatError, MatrixError, bad_json

#: Deeper JSON is refused. No client needs it, and it could exhaust the stack of recursive code further on.
MAX_NESTING = 100

#: Deeper values are not encoded. The reference recurses, and Python's limit of 1,000 counts the caller's frames too.
MAX_ENCODED_NESTING = 500

#: The objects and arrays, and the values, that a client's body may have, and more of them in longer ones. A megabyte of
#: empty arrays takes a sixth of a second to decode.
_ANY_STRUCTURE_BYTES = 4_096
_MAX_CONTAINERS, _BYTES_PER_CONTAINER = 2_000, 20
_MAX_VALUES, _BYTES_PER_VALUE = 10_000, 8

MAX_SAFE_INTEGER = 2**53 - 1

# orjson refuses values that are no plain JSON types, so that they reach the reference, which refuses them too.
_ORJSON_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def encode_canonical(value: Any, *, may_hold_floats: bool = True) -> bytes:
    """Return the canonical JSON of a JSON value, as canonicaljson would write it.

    may_hold_floats: False skips the search for floats. Allowed only if `check_strict_numbers` has passed this value.
    Raises EventFormatError for values without a JSON form (NaN, infinities, lone surrogates, other Python types), and
    for those nested deeper than 500 levels.
    """
    if not (may_hold_floats and _holds_float(value)):
        try:
            return orjson.dumps(value, option=_ORJSON_OPTIONS)
        except TypeError:
            pass  # big integers and deep nesting, which the reference can write
    if _deeper_than(value, MAX_ENCODED_NESTING):
        raise EventFormatError(f"JSON: the value is nested deeper than {MAX_ENCODED_NESTING} levels")
    try:
        encoded: bytes = canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventFormatError("JSON: the value has no canonical JSON form") from error
    return encoded


def compact(encoded: bytes) -> bytes:
    """Return a copy that takes its own length in memory. For JSON that is kept.

    What `orjson.dumps` returns still has the buffer into which it was written: 4 KB for an event of 300 bytes.
    """
    return bytes(memoryview(encoded))


def check_strict_numbers(value: Any) -> None:
    """Raise EventFormatError unless all numbers are integers from -(2^53 - 1) to 2^53 - 1.

    Spec: rooms/v6, "Canonical JSON". Events of room versions 1 to 5 must not be checked.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            pending.extend(item.values())
        elif kind is list or kind is tuple:
            pending.extend(item)
        elif kind is float:
            raise EventFormatError("JSON: numbers must be integers")
        elif kind is int and not -MAX_SAFE_INTEGER <= item <= MAX_SAFE_INTEGER:
            raise EventFormatError("JSON: integers must lie between -(2^53 - 1) and 2^53 - 1")


def decode_json(raw: bytes | bytearray | memoryview | str) -> Any:
    """Return the JSON value of a request's body.

    Integers beyond 64 bits become floats, so that strict checks still refuse them.
    Raises MatrixError M_NOT_JSON for anything but JSON in UTF-8 (NaN and lone surrogates are not JSON), and
    M_BAD_JSON if it is nested deeper than 100 levels.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):  # orjson has a limit of its own, 1024 levels; only the message tells
            raise _too_deep() from None
        raise MatrixError("M_NOT_JSON", "Content is not valid JSON", 400) from None
    if _deeper_than(value, MAX_NESTING):
        raise _too_deep()
    return value


def check_structure(raw: bytes) -> None:
    """Raise M_TOO_LARGE for a JSON text with very many objects, arrays or values for its length.

    It is not decoded for that: brackets and commas in texts count too.
    """
    size = len(raw)
    if size <= _ANY_STRUCTURE_BYTES:
        return
    containers = max(_MAX_CONTAINERS, size // _BYTES_PER_CONTAINER)
    values = max(_MAX_VALUES, size // _BYTES_PER_VALUE)
    if raw.count(b"{") + raw.count(b"[") > containers or raw.count(b",") > values:
        message = f"A body of {size} bytes may have at most {containers} objects and arrays, and {values} values"
        raise MatrixError("M_TOO_LARGE", message, 413)


def decode_json_exactly(raw: bytes | str) -> Any:
    """Return the JSON value with integers of any size kept, for events of the lenient room versions 1 to 5.

    Slower than `decode_json`. Escaped lone surrogates pass here and are refused when the value is encoded.
    Raises the same errors as `decode_json`.
    """
    try:
        # Decoded first: json.loads accepts UTF-16, and surrogates encoded in UTF-8.
        text = raw if isinstance(raw, str) else raw.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError:
        raise MatrixError("M_NOT_JSON", "Content is not valid JSON", 400) from None
    if _deeper_than(value, MAX_NESTING):
        raise _too_deep()
    return value


def encode_unpadded(raw: bytes) -> str:
    """Return standard base64 (+ and /) without padding, as signatures, hashes and keys are written."""
    return base64.b64encode(raw).rstrip(b"=").decode("ascii")


def encode_unpadded_urlsafe(raw: bytes) -> str:
    """Return URL-safe base64 (- and _) without padding, as event ids are written from room version 4 on."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_unpadded(text: str) -> bytes:
    """Return the bytes of base64 with or without padding, in either alphabet. Raises ValueError."""
    stripped = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error


def _holds_float(value: Any) -> bool:
    # Exact types are enough: orjson refuses subclasses (see the options), and the reference encodes them.
    pending = [value]
    while pending:
        item = pending.pop()
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            pending.extend(item.values())
        elif kind is list or kind is tuple:
            pending.extend(item)
        elif kind is float:
            return True
    return False


def _deeper_than(value: Any, levels: int) -> bool:
    """Return True if objects and arrays are nested deeper than `levels`. Breadth first, so it cannot recurse."""
    layer = [value] if isinstance(value, dict | list) else []
    depth = 0
    while layer:
        depth += 1
        if depth > levels:
            return True
        below: list[Any] = []
        for item in layer:
            for child in item.values() if type(item) is dict else item:
                if type(child) is dict or type(child) is list:
                    below.append(child)
        layer = below
    return False


def _too_deep() -> MatrixError:
    return bad_json(f"JSON is nested deeper than {MAX_NESTING} levels")


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
