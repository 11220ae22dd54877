"""What a model takes along so that others can serve it: the code of this package and the packages that it needs."""

from importlib.metadata import requires
from pathlib import Path

import genrec_core


def package_code() -> Path:
    """The folder of this package's modules."""
    return Path(genrec_core.__file__).parent


def inference_requirements() -> list[str]:
    """The pinned packages that the recommender needs: those of no extra."""
    return [line for line in requires("genrec") or [] if "extra ==" not in line]
