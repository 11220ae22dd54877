"""What Prometheus reads from ``/metrics``."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._by_status: dict[int, Counter] = {}
        self.requests = Counter("genrec_requests", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram(
            "genrec_request_seconds",
            "From the first byte read to the answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.users = Counter("genrec_users", "Users served.", registry=self.registry)
        self.batch = Histogram("genrec_batch_users", "Users decoded together.", buckets=_USERS, registry=self.registry)
        self.queue = Gauge("genrec_queue_users", "Users waiting to be decoded.", registry=self.registry)
        self.reloads = Counter("genrec_reloads", "Model reloads by result.", ["result"], registry=self.registry)
        self.loaded = Gauge(
            "genrec_model_loaded_timestamp_seconds", "When the model was loaded.", registry=self.registry
        )
        self.load_seconds = Gauge("genrec_model_load_seconds", "How long that took.", registry=self.registry)
        self.model = Info("genrec_model", "The model that serves.", registry=self.registry)

    def answered(self, status: int) -> None:
        """Count a request."""
        if status not in self._by_status:
            self._by_status[status] = self.requests.labels(str(status))
        self._by_status[status].inc()
