"""The file names of a model folder, and what tells two states of it apart.

Needs no NumPy, as the process that answers requests has none.
"""

import hashlib
from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import MANIFEST, recovered

WITHDRAWN = "withdrawn.json"
ITEM_IDS, CODES, ITEM_VECTORS, ITEM_KEYS, POPULARITY = (
    "item_ids.npy",
    "codes_with_suffix.npy",
    "item_vectors.npy",
    "item_keys.npy",
    "popularity.npy",
)
NEIGHBORS, NEIGHBOR_BONUS = "neighbors.npy", "neighbor_bonus.npy"  # where the model lifts any


def model_version(model_dir: Path) -> str:
    """The version of a model folder: another file or another list of withdrawn items gives another version.

    Returns:
        The start of a sha256 over the manifest, which holds the sha256 of every other file, and ``withdrawn.json``,
        which no manifest names because it may change.

    Raises:
        GenrecError: there is no manifest.
    """
    manifest, withdrawn = recovered(model_dir) / MANIFEST, model_dir / WITHDRAWN
    if not manifest.is_file():
        raise GenrecError(f"{model_dir}: no {MANIFEST}, so it is no finished model folder; export a model there")
    content = manifest.read_bytes() + (withdrawn.read_bytes() if withdrawn.is_file() else b"")
    return hashlib.sha256(content).hexdigest()[:12]
