"""Logs: one line per event, plain or JSON, always with the request id, and never with a token or a message body."""

import logging
import sys
import time
from typing import IO

import orjson

from shared.runtime.context import request_id


class _AddContext(logging.Filter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        record.skep_process = self._process
        return True


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname,
            "process": getattr(record, "skep_process", "-"),
            "request": getattr(record, "request_id", "-"),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry).decode()


_PLAIN = "%(asctime)s.%(msecs)03d %(levelname)-7s %(skep_process)s [%(request_id)s] %(name)s: %(message)s"


def configure_logging(process: str, *, json: bool, level: str, stream: IO[str] | None = None) -> None:
    """Send this process's logs to `stream` (standard error by default).

    process: the worker's name, on each line.
    level: a level name of the logging module, such as "INFO".
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_AddContext(process))
    handler.setFormatter(_Json() if json else logging.Formatter(_PLAIN, "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Libraries may log warnings only.
    for noisy in ("asyncio", "uvicorn", "jaeger_tracing", "twisted"):
        logging.getLogger(noisy).setLevel("WARNING")
