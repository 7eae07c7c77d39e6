"""The answers of haproxy itself: Matrix errors as JSON, with the same CORS headers as all answers. Pure."""

import json

#: Spec: client-server API, "Web browser clients".
CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
}
_PAGES = {
    400: ("Bad Request", "M_UNKNOWN", "The request is not valid HTTP"),
    401: ("Unauthorized", "M_UNAUTHORIZED", "The request is not authorized"),
    403: ("Forbidden", "M_FORBIDDEN", "The request is not allowed"),
    404: ("Not Found", "M_UNRECOGNIZED", "Unrecognized request"),
    405: ("Method Not Allowed", "M_UNRECOGNIZED", "Unrecognized request method"),
    407: ("Proxy Authentication Required", "M_UNAUTHORIZED", "The request is not authorized"),
    408: ("Request Timeout", "M_UNKNOWN", "The request did not arrive in time"),
    410: ("Gone", "M_NOT_FOUND", "There is nothing here any more"),
    413: ("Content Too Large", "M_TOO_LARGE", "The request is too large"),
    421: ("Misdirected Request", "M_UNKNOWN", "The request belongs on another connection"),
    422: ("Unprocessable Content", "M_UNKNOWN", "The request is not valid HTTP"),
    425: ("Too Early", "M_UNKNOWN", "The request came before the connection was secure; send it again"),
    429: ("Too Many Requests", "M_LIMIT_EXCEEDED", "Too many requests from this address"),
    500: ("Internal Server Error", "M_UNKNOWN", "Internal error"),
    501: ("Not Implemented", "M_UNRECOGNIZED", "The server cannot do this"),
    502: ("Bad Gateway", "M_UNKNOWN", "The server's answer was cut off"),
    503: ("Service Unavailable", "M_UNKNOWN", "The server is not available just now; try again"),
    504: ("Gateway Timeout", "M_UNKNOWN", "The server did not answer in time"),
}
#: Seconds, by status. 503: a killed worker's slots have another owner within five; most requests find one sooner.
#: 429: rates are means of ten seconds.
_RETRY_AFTER_S = {429: 5, 503: 1}


def error_pages() -> dict[int, str]:
    """Return status -> the whole raw answer, in the form of haproxy's `errorfile`."""
    return {status: _page(status, *page) for status, page in _PAGES.items()}


def _page(status: int, reason: str, errcode: str, message: str) -> str:
    content: dict[str, str | int] = {"errcode": errcode, "error": message}
    headers = {
        "Content-Type": "application/json",
        **CORS_HEADERS,
        "Cache-Control": "no-store",
        "Connection": "close",
    }
    if status in _RETRY_AFTER_S:
        headers["Retry-After"] = str(_RETRY_AFTER_S[status])
        content["retry_after_ms"] = 1000 * _RETRY_AFTER_S[status]
    body = json.dumps(content)
    headers["Content-Length"] = str(len(body))
    return f"HTTP/1.1 {status} {reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + f"\r\n{body}"
