"""Quotas of each user's storage: the limits of the configuration, and the error beyond them."""

from prometheus_client import CollectorRegistry

from shared.config.sections import Config
from shared.core.errors import MatrixError
from shared.metrics.quotas import QuotaMetrics


class UserQuotas:
    """The quotas, with the count of refusals."""

    def __init__(self, config: Config, registry: CollectorRegistry) -> None:
        self.limits = config.quotas
        self._info_uri = config.support.support_page or config.public_base_url
        self._metrics = QuotaMetrics(registry)

    def exceeded(self, quota: str, message: str) -> MatrixError:
        """Return the error for a request beyond a quota. Spec: client-server API, "Common error codes".

        quota: the name of the setting. message: a sentence that says what to do.
        """
        self.note_refused(quota)
        return MatrixError("M_USER_LIMIT_EXCEEDED", message, 403, {"info_uri": self._info_uri})

    def note_refused(self, quota: str, number: int = 1) -> None:
        """Count what was dropped without an error."""
        self._metrics.refused.labels(quota).inc(number)
