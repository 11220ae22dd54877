"""The Dagster instance: a home folder with this project's ``dagster.yaml``."""

import os
import shutil
from pathlib import Path

CONFIG = "dagster.yaml"
DEFAULT_HOME = Path(".genrec") / "dagster"


def prepare_home() -> Path:
    """Create ``DAGSTER_HOME`` (``.genrec/dagster`` by default), set the variable, and return the absolute path.

    A ``dagster.yaml`` that is there already stays as it is.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or DEFAULT_HOME).expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / CONFIG).is_file():
        shutil.copyfile(Path(__file__).with_name(CONFIG), home / CONFIG)
    os.environ["DAGSTER_HOME"] = str(home)
    return home
