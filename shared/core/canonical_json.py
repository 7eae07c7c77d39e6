"""JSON in, canonical JSON out, and base64 without padding. Spec: appendices, "Canonical JSON", "Unpadded
Base64".

`canonicaljson` is the reference. `orjson` with sorted keys gives the same bytes, fifteen times faster, except
for floats (NaN becomes null, 1e-07 becomes 1e-7) and what it refuses with a TypeError (integers beyond 64
bits, nesting beyond 254 levels). Hence: no floats -> orjson, and the reference for everything that is left. A
differential test holds the two together.
"""

import base64
import binascii
import json
from typing import Any

import canonicaljson
import orjson

from shared.core.errors import EventFormatError, MatrixError, bad_json

#: Deeper JSON is refused: no client needs it, and each recursive reader behind us would be at its mercy.
MAX_NESTING = 100

MAX_SAFE_INTEGER = 2**53 - 1

# What is no plain JSON value takes the reference's way, which refuses it.
_ORJSON_OPTIONS = (
    orjson.OPT_SORT_KEYS
    | orjson.OPT_PASSTHROUGH_SUBCLASS
    | orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
)


def encode_canonical(value: Any, *, may_hold_floats: bool = True) -> bytes:
    """Return the canonical JSON of a JSON value, as canonicaljson would write it.

    may_hold_floats: False only where `check_strict_numbers` has passed the same value: saves looking for floats.
    Raises EventFormatError for what has no JSON form: NaN, infinities, lone surrogates, foreign types.
    """
    if not (may_hold_floats and _holds_float(value)):
        try:
            return orjson.dumps(value, option=_ORJSON_OPTIONS)
        except TypeError:
            pass  # big integers and deep nesting, which the reference can write
    try:
        encoded: bytes = canonicaljson.encode_canonical_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventFormatError("JSON: a value that canonical JSON cannot hold") from error
    return encoded


def check_strict_numbers(value: Any) -> None:
    """Raise EventFormatError unless all numbers are integers from -(2^53 - 1) to 2^53 - 1.

    Spec: rooms/v6, "Canonical JSON"; room versions 1 to 5 must not be held to this.
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
    """Return the JSON value in a request's body.

    Raises MatrixError M_NOT_JSON for what is no JSON in UTF-8 (NaN and lone surrogates included), M_BAD_JSON
    when nested deeper than 100 levels. An integer beyond 64 bits arrives as a float, so strict checks still refuse it.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "limit" in str(error):  # orjson itself stops at 1024 levels and says so in words only
            raise _too_deep() from None
        raise MatrixError("M_NOT_JSON", "Content is not valid JSON", 400) from None
    if _deeper_than(value, MAX_NESTING):
        raise _too_deep()
    return value


def decode_json_exactly(raw: bytes | str) -> Any:
    """Return the JSON value with integers of any size kept: for events of the lenient room versions 1 to 5.

    Errors as in `decode_json`. Slower; escaped lone surrogates pass here and are refused when the value is encoded.
    """
    try:
        # Decoded here, for json.loads would take UTF-16, and UTF-8 that spells surrogates.
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
    """Return standard base64 (+ and /) without padding: signatures, hashes, keys."""
    return base64.b64encode(raw).rstrip(b"=").decode("ascii")


def encode_unpadded_urlsafe(raw: bytes) -> str:
    """Return URL-safe base64 (- and _) without padding: event ids from room version 4 on."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def decode_unpadded(text: str) -> bytes:
    """Return the bytes of base64 with or without padding, in either alphabet. Raises ValueError."""
    stripped = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(stripped + "=" * (-len(stripped) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error


def _holds_float(value: Any) -> bool:
    # orjson writes these exact types and nothing else here (see the options), so subclasses need no look:
    # they are refused by it and land at the reference.
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
    """Return whether objects and arrays are nested deeper than so many levels; walks level by level."""
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
