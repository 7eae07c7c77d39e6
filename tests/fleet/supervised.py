"""A small fleet of stand-in workers under the real supervisor, run as a program by test_supervisor.py.

Arguments: a directory, the seconds that the workers have to end, and one behaviour for each worker:

    good     ends on SIGTERM
    deaf     ignores SIGTERM
    broken   ends at once with code 3
    drained  ends on SIGTERM with the exit code of a worker that an operator drained

The directory gets `records.json`, and a line in `fenced` for each worker that was fenced.
"""

import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from deploy.local.children import Child, Handle, fork_child
from deploy.local.supervisor import Supervisor
from replication.process.draining import DRAINED


def work(behaviour: str) -> int:
    if behaviour == "broken":
        print("2026-11-21 03:00:00.000 ERROR   broken [-] tests: no chance")
        return 3
    if behaviour == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(DRAINED if behaviour == "drained" else 0))
    while True:
        time.sleep(60)


def main() -> int:
    directory, stop_limit_s, behaviours = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]

    def fence(name: str) -> None:
        with (directory / "fenced").open("a") as file:
            file.write(f"{name}\n")

    def write_records() -> None:
        fresh = directory / "records.new"
        fresh.write_text(json.dumps([asdict(each) for each in supervisor.records()]))
        fresh.replace(directory / "records.json")

    supervisor = Supervisor(say=lambda line: print(line, flush=True), fence=fence, changed=write_records)
    supervisor.listen_for_signals()

    def child(number: int, behaviour: str) -> Child:
        log = directory / f"{behaviour}-{number}.log"

        def begin() -> tuple[Handle, str]:
            return fork_child(lambda: work(behaviour), log, supervisor.close_in_children), f"127.0.0.1:{number}"

        return Child(name=f"{behaviour}-{number}", type=behaviour, log=log, start=begin, is_worker=True)

    for number, behaviour in enumerate(behaviours, 1):
        supervisor.start(child(number, behaviour))
    print("started", flush=True)
    supervisor.supervise()
    supervisor.stop_all([(lambda _child: True, stop_limit_s)])
    print("stopped", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
