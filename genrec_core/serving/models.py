"""The model that serves, and its replacement by a newer release while requests go on."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from genrec_core.bundle.model_folder import ModelFolder
from genrec_core.cores import available_cores
from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import served_model
from genrec_core.serving.decoders import CORES, Decoder, close_all
from genrec_core.serving.metrics import Metrics
from genrec_core.storage.folders import LATEST, latest

LOG = logging.getLogger("genrec.serving")


class ServedModel:
    """A release: a model folder, opened and warmed up in some decoding processes.

    Args:
        model_dir: the folder; links are followed at once, so that a link that moves on changes nothing.
        threads: decoding processes, of one thread each, and each on a core of its own where there are as many.
        open_seconds: within which each must have opened the model, at first or in the place of another.

    Attributes:
        retired: another model serves; the processes end with the last request that began with this one.

    Raises:
        GenrecError: it is missing, damaged, of another form, or was replaced while it was read.
    """

    def __init__(self, model_dir: Path, threads: int, open_seconds: float = math.inf) -> None:
        began, self.folder = time.perf_counter(), model_dir.resolve()
        self.version = ModelFolder(self.folder).version
        cores: list[int | None] = [None] * threads  # the kernel knows better which ones others leave free
        if threads == len(CORES):
            cores = [*sorted(CORES)]
        self.decoders = [Decoder(self.folder, core, open_seconds) for core in cores]
        try:
            *_, self.facts = [decoder.ready() for decoder in self.decoders]  # all of them, and all alike
            if ModelFolder(self.folder).version != self.version:
                raise GenrecError(f"{model_dir}: was replaced while it was read; load it again")
        except GenrecError:
            self._close()
            raise
        self.max_history = int(self.facts["max_history"])
        self.loaded_at, self.load_seconds = time.time(), time.perf_counter() - began
        self._lock, self._requests, self.retired = threading.Lock(), 0, False

    def acquire(self) -> None:
        """Keep the processes for a request, until :meth:`release`."""
        with self._lock:
            self._requests += 1

    def release(self) -> None:
        """The request has its answer."""
        with self._lock:
            self._requests -= 1
            last = self.retired and not self._requests
        if last:
            threading.Thread(target=self._close, name="retire").start()  # it waits for the processes to end

    def retire(self) -> None:
        """End the processes as soon as no request needs them."""
        with self._lock:
            self.retired, idle = True, not self._requests
        if idle:
            self._close()
            return
        for decoder in self.decoders:
            if decoder.lost:  # who opens a process for it would keep the next model waiting
                decoder.hang_up()

    @property
    def lost(self) -> bool:
        """Whether every process ended and none has taken its place yet, so that nobody decodes."""
        return all(decoder.lost for decoder in self.decoders)

    def _close(self) -> None:
        close_all(self.decoders)


def release_in(model_dir: Path | None) -> Path:
    """The model folder that is meant now.

    Args:
        model_dir: a model folder, a link to one, or an asset's folder, whose newest version is meant; None for the
            release that is served.

    Raises:
        GenrecError: there is none.
    """
    if model_dir is None:
        return served_model()
    return latest(model_dir.name, model_dir.parent) if (model_dir / LATEST).is_file() else model_dir


class ModelHolder:
    """Holds the model that serves; a request keeps the one it began with.

    Args:
        model_dir: see :func:`release_in`.
        threads: decoding processes; None for one a core.
        metrics: told of every load.
        open_model: opens a folder in so many processes.
    """

    def __init__(
        self,
        model_dir: Path | None,
        threads: int | None,
        metrics: Metrics,
        open_model: Callable[[Path, int], ServedModel] = ServedModel,
    ) -> None:
        self.model_dir, self.metrics, self._open = model_dir, metrics, open_model
        self.threads = threads or available_cores()
        self.current: ServedModel | None = None
        self.failure: str | None = None
        self._loading, self._switching = threading.Lock(), threading.Lock()

    @contextmanager
    def lease(self) -> Iterator[ServedModel | None]:
        """What serves now, kept alive for a request though another may take its place; None before the first load."""
        with self._switching:
            if model := self.current:
                model.acquire()
        try:
            yield model
        finally:
            if model:
                model.release()

    def load(self) -> bool:
        """Open the release if it is not what serves already; what serves stays until the new one is warm.

        Returns:
            Whether another model serves now.

        Raises:
            GenrecError: it cannot be opened; what served goes on serving.
        """
        with self._loading:
            try:
                folder, before = release_in(self.model_dir), self.current
                if before and ModelFolder(folder).version == before.version:
                    self.failure = None
                    self.metrics.reloads.labels("unchanged").inc()
                    return False
                model = self._open(folder, self.threads)
            except GenrecError as error:
                self.failure = str(error)
                self.metrics.reloads.labels("failed").inc()
                raise
            with self._switching:
                self.current, self.failure = model, None
            self._show(model)
            if before:
                before.retire()
            return True

    def follow(self, model: ServedModel) -> None:
        """Load what serves again if its folder changed, as a process that took another's place has read that.

        Args:
            model: what the process decodes for.
        """
        try:
            if model is not self.current or (found := ModelFolder(model.folder).version) == model.version:
                return
            LOG.warning(
                "%s: holds version %s, which a new decoding process may have opened, and version %s serves; "
                "loading the new one everywhere",
                model.folder, found, model.version,
            )  # fmt: skip
            self.load()
        except GenrecError as error:
            LOG.error("processes of two versions serve: %s; mend that, then POST /admin/reload", error)

    def _show(self, model: ServedModel) -> None:
        self.metrics.reloads.labels("loaded").inc()
        self.metrics.loaded.set(model.loaded_at)
        self.metrics.load_seconds.set(model.load_seconds)
        self.metrics.model.info({"version": model.version, "folder": model.folder.name})

    def close(self) -> None:
        """End what serves; its requests are answered by now."""
        with self._loading:
            if self.current:
                self.current.retire()
