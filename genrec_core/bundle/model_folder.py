"""The folder of an exported model: its files, its version and its withdrawn items.

No other room knows a file name of it. What cannot be read or does not fit raises ``GenrecError``.
Functions import NumPy themselves, as the process that answers requests has none.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.data.ids import AnyId
from genrec_core.errors import GenrecError
from genrec_core.settings import RankingMode
from genrec_core.storage.artifacts import (
    MANIFEST,
    locked_place,
    read_array,
    read_json,
    recovered,
    verify_manifest,
    write_json,
)
from genrec_core.storage.folders import refresh_shared, write_shared

if TYPE_CHECKING:
    import numpy as np

    from genrec_core.search.key_index import KeySketches


FORMAT = 9
SETTINGS = "recommender.json"  # the format and GraphSettings
ENCODER = "history_encoder.onnx"  # with level 0 of the decoder
ITEM_LOGITS = "item_logits.onnx"  # the dense head's product of queries and item keys
TOKENS, PREFIXES = "token_vectors.npy", "prefix_vectors.npy"  # what the decoder adds for a token and for a prefix
# By catalogue row: see ModelItems.
ITEM_IDS, CODES, POPULARITY = "item_ids.npy", "codes_with_suffix.npy", "popularity.npy"
ITEM_VECTORS, ITEM_KEYS = "item_vectors.npy", "item_keys.npy"
# Of a large catalogue: see genrec_core.search.key_index.
KEY_SCALES = "item_key_scales.npy"
KEY_DIRECTIONS, KEY_SKETCHES = "item_key_directions.npy", "item_key_sketches.npy"
ITEMS = "items/columns.json"  # what the catalogue says of the items; absent where exported without a catalogue
# What the training part says of the items: see genrec_core.bundle.item_details. Each file may be absent.
PARTNERS, PARTNER_COUNTS = "partners.npy", "partner_counts.npy"
RECENT, FIRST_SEEN, EXAMPLE_HISTORIES = "recent.npy", "first_seen.npy", "example_histories.npy"
# What adding items needs: a graph, text vectors, settings, and the codebooks of the semantic IDs.
NEW_ITEMS = "new_items"
ITEM_ENCODER, TEXT_VECTORS, ADDITION_SETTINGS = "item_encoder.onnx", "text_vectors.npy", "new_items.json"
WITHDRAWN = "withdrawn.json"  # may change, so no manifest names it; it holds a sha256 of its own
REPORT = "quantization.json"  # how a model in int8 ranks beside the one in fp32; absent where it is in fp32
_SHOWN = 5  # items that an error names


def step_graph(level: int) -> str:
    """The file name of the decoder's graph for a level from 1 on."""
    return f"decoder_step_{level}.onnx"


@dataclass(frozen=True)
class GraphSettings:
    """The content of ``recommender.json``."""

    level_sizes: tuple[int, ...]  # vocabulary by level, the collision suffix last
    max_history: int  # newest items that the encoder reads
    item_width: int  # of the item vectors and keys
    dense: bool  # whether the dense head was trained
    hybrid_weight: float  # share of the dense head in the hybrid ranking
    ranking: RankingMode = "hybrid"  # what the ranking ``auto`` means
    exclude_seen: bool = True  # whether lists leave out the items of the user's history by default
    int8: bool = False  # whether weights are rounded; then item keys are rounded when the model is opened


@dataclass(frozen=True)
class ModelItems:
    """What a model holds of its items, by catalogue row."""

    item_ids: "np.ndarray"  # the data set's ids, int64 or text [n]
    codes: "np.ndarray"  # semantic IDs with suffix, int32 [n, depth]
    popularity: "np.ndarray"  # training interactions, int64 [n]
    vectors: (
        "np.ndarray"  # what the encoder reads of each item, [n, item_width]; float16 in a large catalogue, or float32
    )
    # What the dense head compares its query with, float32 [n, item_width]. In a catalogue too large to score every item
    # for every user int16: see RoundedKeys, to which the scales float32 [n] belong.
    keys: "np.ndarray"
    scales: "np.ndarray | None" = None


_ITEM_FILES = (ITEM_IDS, CODES, POPULARITY, ITEM_VECTORS, ITEM_KEYS)  # in the order of ModelItems


@dataclass(frozen=True)
class Withdrawal:
    """What :meth:`ModelFolder.withdraw` did, in items."""

    changed: int  # withdrawn or restored now; the others already were
    withdrawn: int  # from now on
    left: int  # can still be recommended


class ModelFolder:
    """An exported model's folder. A property reads its file each time; nothing is verified before."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def version(self) -> str:
        """The start of a sha256 over the manifest and the list of withdrawn items.

        The manifest holds the sha256 of every other file. So any changed file gives another version.
        """
        manifest = recovered(self.path) / MANIFEST
        if not manifest.is_file():
            raise GenrecError(f"{self.path}: no {MANIFEST}, so it is no finished model folder; export a model there")
        withdrawn = self.withdrawn_list
        content = manifest.read_bytes() + (withdrawn.read_bytes() if withdrawn.is_file() else b"")
        return hashlib.sha256(content).hexdigest()[:12]

    @property
    def settings(self) -> GraphSettings:
        """The content of ``recommender.json``."""
        path = self.path / SETTINGS
        content = read_json(path)
        number = content.pop("format", None)
        if number != FORMAT:
            raise GenrecError(f"{path}: format {number}, but this version reads {FORMAT}; export it again")
        return GraphSettings(**{**content, "level_sizes": tuple(content["level_sizes"])})

    def save_settings(self, settings: GraphSettings) -> None:
        write_json(self.path / SETTINGS, {"format": FORMAT, **asdict(settings)})

    def array(self, name: str) -> "np.ndarray":
        return read_array(self.path / name)

    def save_array(self, name: str, array: "np.ndarray") -> None:
        import numpy as np

        np.save(self.path / name, array, allow_pickle=False)

    @property
    def item_ids(self) -> "np.ndarray":
        """The data set's ids by catalogue row, int64 or text [n]."""
        return self.array(ITEM_IDS)

    @property
    def popularity(self) -> "np.ndarray":
        """Training interactions by catalogue row, int64 [n]."""
        return self.array(POPULARITY)

    def items(self) -> ModelItems:
        """What the model holds of its items, mapped, so that processes share the memory."""
        import numpy as np

        names = [*_ITEM_FILES, KEY_SCALES] if (self.path / KEY_SCALES).is_file() else _ITEM_FILES
        arrays = [np.asarray(read_array(self.path / name, "r")) for name in names]
        rows = {name: len(array) for name, array in zip(names, arrays, strict=True)}
        if len(set(rows.values())) != 1:
            raise GenrecError(f"{self.path}: the files differ in items ({rows}); export it again")
        return ModelItems(*arrays)

    def save_items(self, items: ModelItems) -> None:
        """Write the files of :meth:`items`, and the sketches of a large catalogue."""
        import numpy as np

        from genrec_core.search.key_index import KeySketches, RoundedKeys

        arrays = (items.item_ids, items.codes, items.popularity, items.vectors, items.keys, items.scales)
        for name, array in zip((*_ITEM_FILES, KEY_SCALES), arrays, strict=True):
            if array is not None:
                self.save_array(name, array)
        if items.scales is not None:
            leaf_row = np.lexsort(items.codes.T[::-1])
            sketches = KeySketches.of(RoundedKeys(items.keys, items.scales), leaf_row)
            for name, array in zip((KEY_DIRECTIONS, KEY_SKETCHES), sketches, strict=True):
                self.save_array(name, array)

    def sketches(self) -> "KeySketches":
        """The sketches of a large catalogue's keys, mapped."""
        import numpy as np

        from genrec_core.search.key_index import KeySketches

        return KeySketches(*(np.asarray(read_array(self.path / name, "r")) for name in (KEY_DIRECTIONS, KEY_SKETCHES)))

    def quantization_report(self) -> dict[str, Any] | None:
        """How the model in int8 ranks beside the one in fp32; None for a model in fp32."""
        path = self.path / REPORT
        return read_json(path) if path.is_file() else None

    @property
    def takes_rules(self) -> bool:
        """Whether the model was exported with its catalogue, which rules need."""
        return (self.path / ITEMS).is_file()

    @property
    def withdrawn_list(self) -> Path:
        """The file that lists the withdrawn items; absent where none ever was."""
        return self.path / WITHDRAWN

    def withdrawn(self) -> list[Any]:
        """Ids of the withdrawn items, ascending."""
        path = self.withdrawn_list
        if not path.is_file():
            return []
        content = read_json(path)
        items = content.get("item_ids") if isinstance(content, dict) else None
        again = "remove it and withdraw the items again"
        if not isinstance(items, list) or not all(type(item) in (int, str) for item in items):
            raise GenrecError(f"{path}: no list of item ids; {again}")
        if content.get("sha256") != _digest(items):
            raise GenrecError(f"{path}: differs from its own sha256; {again}")
        unknown = set(items).difference(self.item_ids.tolist())
        if unknown:
            raise GenrecError(f"{path}: the model has no item {min(unknown)}; {again}")
        return items

    def withdraw(self, items: "np.ndarray", restore: bool = False) -> Withdrawal:
        """Add ``items``, ids int64 or text [n], to the withdrawn ones, or with ``restore`` take them off that list.

        A recommender that is opened afterwards never recommends withdrawn items; one that is open does not change.
        Changes of one folder wait for each other.
        """
        with locked_place(self.path):
            verify_manifest(self.path)
            known, chosen = set(self.item_ids.tolist()), set(items.tolist())
            unknown = sorted(chosen - known)
            if unknown:
                shown = ", ".join(map(str, unknown[:_SHOWN]))
                raise GenrecError(f"the model does not have {len(unknown)} of the items ({shown}); nothing was changed")
            refresh_shared(self.withdrawn_list)
            before = set(self.withdrawn())
            after = before - chosen if restore else before | chosen
            if after == known:
                raise GenrecError("no item of the model would be left; nothing was changed")
            items_left_out = sorted(after)
            try:
                write_shared(self.withdrawn_list, {"item_ids": items_left_out, "sha256": _digest(items_left_out)})
            except OSError as error:
                fault = f"cannot be written ({error.strerror or error}); nothing was changed"
                raise GenrecError(f"{self.withdrawn_list}: {fault}") from error
        return Withdrawal(len(after ^ before), len(after), len(known) - len(after))


def _digest(items: list[AnyId]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()
