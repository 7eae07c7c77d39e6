"""Settings that contradict the way the server seems to be reached. They prevent no start, and are said to operators."""

from collections.abc import Iterator

from shared.config.sections import Config


def remarks(config: Config) -> Iterator[str]:
    """Yield a sentence for each of them."""
    if config.public_base_url.startswith("https://") and not config.haproxy.trusted_proxies:
        yield (
            "public_base_url is https and haproxy speaks plain HTTP, so a proxy is in front of it, but"
            " haproxy.trusted_proxies names none: all users have the proxy's address, and share one limit of log-ins"
            " and requests."
        )
