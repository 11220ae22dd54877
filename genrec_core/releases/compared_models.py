"""Which models a new release is compared with."""

from pathlib import Path

from genrec_core.errors import GenrecError
from genrec_core.releases.pointer import MODEL, RELEASES, Pointer
from genrec_core.releases.transfer import best_trained
from genrec_core.storage.folders import all_versions, version_folder

_EARLIER = 5  # newest earlier releases


def compared_models(served: Pointer, root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The exported models by version, the served one first; and by version why an earlier one cannot be fetched.

    These are the served release, the newest releases before it, and the one whose training reached the best validation
    recall. Others are left out, as each model is opened and ranks items for all users of the comparison.
    """
    whole = {version.version for version in all_versions(RELEASES, root) if version.whole}
    before = [version for version in served.known if version != served.version and version in whole]
    models = {served.version: version_folder(RELEASES, served.version, root) / MODEL}
    damaged: dict[str, str] = {}
    for version in dict.fromkeys([*before[-_EARLIER:], *best_trained(before, root)]):
        try:
            models[version] = version_folder(RELEASES, version, root) / MODEL
        except GenrecError as error:
            damaged[version] = str(error)
    return models, damaged
