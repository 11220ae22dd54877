"""The model that serves, and how a newer release takes its place while requests go on."""

import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrec_core.bundle.model_folder import ModelFolder, Withdrawal
from genrec_core.cores import available_cores
from genrec_core.data.ids import AnyId, id_array
from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import release_in, release_of, withdraw_from_served
from genrec_core.serving.decoders import CORES, Decoder, kill_all
from genrec_core.serving.metrics import Metrics

LOG = logging.getLogger("genrec.serving")
_ADDING_SECONDS = 600
_OPENING_SECONDS = 8  # for a model that is being opened when the server stops


class ServedModel:
    """A model folder, opened and warmed up in some decoding processes.

    Args:
        model_dir: the folder. A link is followed at once, so a link that moves later changes nothing.
        threads: number of decoding processes, of one thread each.
        open_seconds: seconds within which each process must have opened the model; None for no limit.

    Attributes:
        release_version: the version of the release that it belongs to; None for a model of its own.
        retired: another model serves; the processes end with the last request that began with this one.
    """

    def __init__(self, model_dir: Path, threads: int, open_seconds: float | None = None) -> None:
        began, self.folder = time.perf_counter(), model_dir.resolve()
        self.version, self.release_version = ModelFolder(self.folder).version, release_of(self.folder)
        cores = CORES if len(CORES) == threads else [None] * threads
        self.decoders = [Decoder(self.folder, core, open_seconds) for core in cores]
        try:
            *_, self.facts = [decoder.ready() for decoder in self.decoders]  # each has the same facts
            if ModelFolder(self.folder).version != self.version:
                raise GenrecError(f"{model_dir}: was replaced while it was read; load it again")
        except GenrecError:
            self._close()
            raise
        self.max_history, self.text_ids = int(self.facts["max_history"]), self.facts["item_ids"] == "text"
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
            self._close()

    def retire(self) -> None:
        """End the processes as soon as no request needs them."""
        with self._lock:
            self.retired, idle = True, not self._requests
        for decoder in self.decoders:
            if idle or decoder.lost:  # opening this model again in a lost process would delay the next model
                decoder.close()

    @property
    def lost(self) -> bool:
        """Whether every process is lost, so that no request can be decoded now."""
        return all(decoder.lost for decoder in self.decoders)

    def _close(self) -> None:
        for decoder in self.decoders:
            decoder.close()


class ModelHolder:
    """Holds the model that serves; a request keeps the model that it began with.

    Args:
        model_dir: see :func:`~genrec_core.releases.pointer.release_in`.
        threads: number of decoding processes; None for one a core.
        metrics: gets the result of every load.
        open_model: opens a folder in that number of processes.
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
        self._adding = set[subprocess.Popen[str]]()

    @contextmanager
    def lease(self) -> Iterator[ServedModel]:
        """Keep the model that serves now for a request, although another may take its place meanwhile."""
        with self._switching:
            model = self.current
            if model is None:
                raise GenrecError("no model is loaded yet")
            model.acquire()
        try:
            yield model
        finally:
            model.release()

    def load(self) -> bool:
        """Open the release if it is not what serves already, and return whether another model serves now.

        The model before serves until the new one is warm, and goes on serving where that cannot be opened.
        """
        with self._loading:
            before = self.current
            try:
                folder = release_in(self.model_dir)
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
            self.metrics.reloads.labels("loaded").inc()
            self.metrics.loaded.set(model.loaded_at)
            self.metrics.load_seconds.set(model.load_seconds)
            self.metrics.model.info({"version": model.version, "folder": model.folder.name})
            if before:
                before.retire()
            return True

    def withdraw(self, item_ids: list[AnyId], restore: bool) -> Withdrawal:
        """Withdraw items from the model where it lies, or restore them; :meth:`load` then serves the change.

        See :meth:`~genrec_core.bundle.model_folder.ModelFolder.withdraw`.
        """
        items = id_array(item_ids)
        if self.model_dir is None:
            return withdraw_from_served(items, restore)[1]
        return ModelFolder(release_in(self.model_dir)).withdraw(items, restore)

    def add(self, items: list[dict[str, Any]]) -> None:
        """Add items to the model where it lies, by ``genrec add-items``; :meth:`load` then serves them.

        The command runs in a process of its own, since the text model that it loads is larger than a server.

        Args:
            items: as lines of the command's file: ``item_id``, and ``text`` or the catalogue's fields.

        Raises:
            GenrecError: the command refused them; nothing was changed.
        """
        with tempfile.TemporaryDirectory(prefix="genrec-") as folder:
            path = Path(folder) / "items.jsonl"
            path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
            place = [] if self.model_dir is None else ["--model_dir", str(release_in(self.model_dir))]
            command = [sys.executable, "-m", "genrec_core.cli", "add-items", "--items", str(path), *place]
            adding = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._adding.add(adding)
            try:
                _, errors = adding.communicate(timeout=_ADDING_SECONDS)
            except subprocess.TimeoutExpired as error:
                raise GenrecError(f"adding took more than {_ADDING_SECONDS} seconds and was stopped") from error
            finally:
                self._adding.discard(adding)
                adding.kill()  # nothing where it has ended
                adding.wait()
        if adding.returncode:
            said = (errors.strip().splitlines() or [f"genrec add-items ended with {adding.returncode}"])[-1]
            raise GenrecError(said.removeprefix("genrec: error: ").replace(str(path), "items"))

    def follow(self, model: ServedModel) -> None:
        """Load the release again if the folder of ``model`` changed after it was opened.

        A process that replaced a lost one has read the folder anew, so it would decode with another version.
        """
        try:
            if model is not self.current or (version := ModelFolder(model.folder).version) == model.version:
                return
            LOG.warning(
                "%s: holds version %s, which a new decoding process may have opened, but version %s serves; "
                "loading the new one everywhere",
                model.folder, version, model.version,
            )  # fmt: skip
            self.load()
        except GenrecError as error:
            LOG.error("processes of two versions serve: %s; mend that, then POST /admin/reload", error)

    def close(self) -> None:
        """End all processes. A model that is still being opened has some seconds more."""
        for adding in list(self._adding):
            adding.terminate()
        if not self._loading.acquire(timeout=_OPENING_SECONDS):
            kill_all()  # so that the opening fails
            self._loading.acquire()
        if self.current:
            self.current.retire()
        self._loading.release()
