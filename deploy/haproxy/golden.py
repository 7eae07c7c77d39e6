"""`python -m deploy.haproxy.golden`: write the golden files, which show every change of routing in review."""

from pathlib import Path

from deploy.endpoint_table import all_endpoints, all_pools
from deploy.haproxy.configuration import HaproxyInputs
from deploy.haproxy.generate import haproxy_files

DIRECTORY = Path(__file__).parent / "golden"


def golden_files() -> dict[str, str]:
    """Return file name -> content for an ordinary installation: both listeners, TLS, two pairs of slot backends.

    Two pairs rather than 64, and no slot maps (1024 times "none"): the rest would only repeat.
    """
    inputs = HaproxyInputs(
        client_bind=("127.0.0.1:8008",),
        federation_bind=("0.0.0.0:8448",),
        federation_tls_pem="/etc/skep/federation.pem",
        runtime_socket="/run/skep/haproxy.sock",
        metrics_bind="127.0.0.1:8405",
        log_target="stdout format raw daemon",
        slot_backends=2,
    )
    files = haproxy_files(inputs, all_endpoints(), all_pools())
    return {name: text for name, text in files.items() if name == "haproxy.cfg" or name.startswith("endpoints")}


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for name, text in golden_files().items():
        (DIRECTORY / name).write_text(text)


if __name__ == "__main__":
    main()
