"""Write all files that haproxy needs into one directory: `haproxy -f DIRECTORY/haproxy.cfg`."""

from collections.abc import Sequence
from pathlib import Path

from deploy.haproxy.configuration import EXACT_MAP, PATTERN_MAP, HaproxyInputs, render_haproxy_config
from deploy.haproxy.error_pages import error_pages
from deploy.haproxy.routes import exact_map, pattern_map
from deploy.haproxy.welcome_page import FILE_NAME, welcome_page
from shared.core.slots import SLOTS
from shared.http.endpoint import Endpoint, Pool
from shared.http.endpoint_check import check_endpoints
from workers.main.haproxy_layout import NO_BACKEND, slot_map, slot_pools
from workers.main.haproxy_plan import ProxyState

__all__ = ["HaproxyInputs", "haproxy_files", "render_haproxy_config", "write_haproxy_files"]


def haproxy_files(
    inputs: HaproxyInputs, endpoints: Sequence[Endpoint], pools: Sequence[Pool], running: ProxyState | None = None
) -> dict[str, str]:
    """Return relative file name -> content. Raises ValueError for endpoints that contradict each other.

    running: the state of the running haproxy. Its successor starts with the same servers and slot owners, so that it
    answers from its first request on.
    """
    running = running or ProxyState()
    check_endpoints(endpoints, pools)
    pools = [pool for pool in pools if pool.behind_proxies]
    files = {
        "haproxy.cfg": render_haproxy_config(inputs, endpoints, pools, running.servers),
        EXACT_MAP: exact_map(endpoints, pools),
        PATTERN_MAP: pattern_map(endpoints, pools),
    }
    # Every slot has an entry from the start: main changes entries, and notices a lost one by its absence.
    for name in (slot_map(kind) for kind in slot_pools(tuple(pools))):
        owners = dict(running.maps.get(name, ()))
        files[name] = "".join(f"{slot} {owners.get(str(slot), NO_BACKEND)}\n" for slot in range(SLOTS))
    files[FILE_NAME] = welcome_page()
    files.update({f"errors/{status}.http": page for status, page in error_pages().items()})
    return files


def write_haproxy_files(
    inputs: HaproxyInputs,
    endpoints: Sequence[Endpoint],
    pools: Sequence[Pool],
    directory: Path,
    running: ProxyState | None = None,
) -> Path:
    """Write the files and return the path of haproxy.cfg. Each existing file is replaced as a whole."""
    for name, content in haproxy_files(inputs, endpoints, pools, running).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(content.encode())
        fresh.replace(path)
    return directory / "haproxy.cfg"
