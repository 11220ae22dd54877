"""What Prometheus reads from ``/metrics``."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.5, 1, 2, 5, 10)
_USERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The figures of one server process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("genrec_requests", "Requests by status.", ["status"], registry=registry)
        about = "From the first byte read to the answer."
        self.seconds = Histogram("genrec_request_seconds", about, buckets=_SECONDS, registry=registry)
        self.users = Counter("genrec_users", "Users served.", registry=registry)
        about = "Searches, item facts, example histories and lists of similar items served."
        self.lookups = Counter("genrec_lookups", about, registry=registry)
        self.batch = Histogram("genrec_batch_users", "Users decoded together.", buckets=_USERS, registry=registry)
        self.queue = Gauge("genrec_queue_users", "Users waiting to be decoded.", registry=registry)
        self.reloads = Counter("genrec_reloads", "Model reloads by result.", ["result"], registry=registry)
        about = "When the model was loaded."
        self.loaded = Gauge("genrec_model_loaded_timestamp_seconds", about, registry=registry)
        self.load_seconds = Gauge("genrec_model_load_seconds", "How long loading the model took.", registry=registry)
        self.model = Info("genrec_model", "The model that serves.", registry=registry)

    def answered(self, status: int, seconds: float) -> None:
        """Note a request."""
        self.requests.labels(str(status)).inc()
        self.seconds.observe(seconds)
