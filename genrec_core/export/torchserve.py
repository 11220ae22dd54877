"""Writes what ``torch-model-archiver`` packs into a ``.mar``, and the files to run TorchServe with it.

The archive holds the model folder and the code of this package, so that a model is served by the code that exported it.
"""

import re
import shutil
from importlib.metadata import requires, version
from pathlib import Path

import genrec_core
from genrec_core.errors import GenrecError
from genrec_core.export import torchserve_handler
from genrec_core.storage.artifacts import atomic_folder, verify_manifest

MODEL_NAME = "mymodel"
ARCHIVER, HANDLER, STORE = "archive.sh", "genrec_handler.py", "model_store"
EXTRA = "extra"  # unpacked at the root of the archive: the model folder and the code
REQUIREMENTS, MODEL_CONFIG, SERVER_CONFIG = "requirements.txt", "model-config.yaml", "config.properties"

_ARCHIVER_SCRIPT = """\
#!/bin/sh
# Packs {store}/{model}.mar. The archiver empties the folder {model} of TMPDIR first, so it gets one of its own.
set -eu
cd "$(dirname "$0")"
mkdir -p {store}
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
{command}
"""
_MODEL_CONFIG = """\
# One worker uses every core; requests that wait while it works, at most batchSize, are ranked together.
minWorkers: 1
maxWorkers: 1
batchSize: 16
maxBatchDelay: 5  # milliseconds
responseTimeout: 60  # seconds
"""
_SERVER_CONFIG = """\
# Loopback only, and a token for every request: torchserve writes the tokens to key_file.json where it is started.
inference_address=http://127.0.0.1:8080
management_address=http://127.0.0.1:8081
metrics_address=http://127.0.0.1:8082
disable_token_authorization=false
enable_model_api=false
allowed_urls=file://.*
install_py_dep_per_model=false
model_store={store}
load_models={model}.mar
"""


def package_code() -> Path:
    """The folder of this package's modules, which a model takes along."""
    return Path(genrec_core.__file__).parent


def inference_requirements() -> list[str]:
    """The packages that the recommender needs, those of no extra, each pinned to the version that is installed here."""
    lines = [line for line in requires("genrec") or [] if "extra ==" not in line]
    names = [re.match(r"[\w.-]+", line)[0] for line in lines]  # type: ignore[index]  # a requirement begins with a name
    return [f"{name}=={version(name)}" for name in names]


def archiver_command() -> str:
    """The documented call, to be run in the exported folder."""
    return (
        f"torch-model-archiver --model-name {MODEL_NAME} --version 1.0 --handler {HANDLER} --extra-files {EXTRA} "
        f"--requirements-file {REQUIREMENTS} --config-file {MODEL_CONFIG} --export-path {STORE} --force"
    )


def export_torchserve(model_dir: Path, target: Path) -> None:
    """Write the folder ``target`` for a model folder; it appears whole or not at all.

    An earlier export there is replaced, its packed archive included.
    """
    verify_manifest(model_dir)
    if target.exists() and not (target / ARCHIVER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise GenrecError(f"{target}: is there and no earlier export; name a new or an empty folder")
    with atomic_folder(target) as folder:
        shutil.copyfile(Path(torchserve_handler.__file__), folder / HANDLER)
        shutil.copytree(model_dir, folder / EXTRA / torchserve_handler.MODEL_FOLDER)
        code = package_code()
        shutil.copytree(code, folder / EXTRA / code.name, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / REQUIREMENTS).write_text("\n".join(inference_requirements()) + "\n", encoding="utf-8")
        (folder / MODEL_CONFIG).write_text(_MODEL_CONFIG, encoding="utf-8")
        names = {"store": STORE, "model": MODEL_NAME}
        (folder / SERVER_CONFIG).write_text(_SERVER_CONFIG.format(**names), encoding="utf-8")
        script = folder / ARCHIVER
        script.write_text(_ARCHIVER_SCRIPT.format(**names, command=archiver_command()), encoding="utf-8")
        script.chmod(0o755)
