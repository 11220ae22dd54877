"""Reading the files of a semantic-ID folder, with errors that name the file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import read_json


def load_array(path: Path) -> NDArray[np.float64]:
    """Read one array, whatever its dtype."""
    try:
        array: NDArray[np.float64] = np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise GenrecError(f"{path}: no such file; build the semantic IDs first") from error
    except (ValueError, EOFError) as error:
        raise GenrecError(f"{path}: not a NumPy array ({error}); build the semantic IDs again") from error
    return array


def load_fields(path: Path, *names: str) -> list[Any]:
    """The values of ``names`` in a JSON object, in that order."""
    stored = read_json(path)
    missing = [name for name in names if not isinstance(stored, dict) or name not in stored]
    if missing:
        raise GenrecError(f"{path}: has no {missing[0]!r}; build the semantic IDs again")
    return [stored[name] for name in names]
