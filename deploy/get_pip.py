"""Installs pip into the virtual environment whose Python runs this, where Python came without ensurepip.

Standard library only. The wheel is taken from the index that pip itself would use ($PIP_INDEX_URL, else PyPI), its
checksum from that index' page, and it installs itself.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

_INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple")
_LINK = re.compile(r'href="([^"#]*/pip-(\d+(?:\.\d+)*)-py3-none-any\.whl)#sha256=([0-9a-f]{64})"')


def main() -> int:
    page_url = f"{_INDEX.rstrip('/')}/pip/"
    with urllib.request.urlopen(page_url, timeout=60) as response:  # noqa: S310 - the operator's own index
        page = response.read().decode()
    found = [(tuple(map(int, release.split("."))), link, digest) for link, release, digest in _LINK.findall(page)]
    if not found:
        print(f"No pip found at {page_url}. Install python3-venv, or name another Python: PYTHON=...", file=sys.stderr)
        return 1
    _, link, digest = max(found)
    url = urllib.parse.urljoin(page_url, link)
    with urllib.request.urlopen(url, timeout=60) as response:  # noqa: S310 - as above
        wheel = response.read()
    if hashlib.sha256(wheel).hexdigest() != digest:
        print(f"{url} does not have the checksum that {page_url} names", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / url.rpartition("/")[2]
        path.write_bytes(wheel)
        return subprocess.call([sys.executable, f"{path}/pip", "install", "--quiet", "--no-index", str(path)])


if __name__ == "__main__":
    sys.exit(main())
