"""A model whose checkpoint is loaded whole or not at all: transformers alone fills missing weights at random."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

from safetensors import SafetensorError
from transformers import PreTrainedModel

from genrec_core.errors import GenrecError
from genrec_core.storage.artifacts import recovered

_SHOWN = 5  # names that an error lists


class WholeModel(PreTrainedModel):
    """Base of the models that training saves."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | PathLike[str] | None, *arguments: Any, **options: Any
    ) -> Self:
        """Load the folder that ``save_pretrained`` wrote; arguments as transformers takes them.

        Raises:
            GenrecError: a file is missing or damaged, the sizes do not fit each other, or the weights are not exactly
                the model's; names them.
        """
        folder = pretrained_model_name_or_path
        if folder is not None:
            recovered(Path(folder))
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that all are named below
        options |= {"use_safetensors": True}  # the other form is a pickle
        try:
            loaded: Any = super().from_pretrained(folder, *arguments, **options)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise GenrecError(f"{folder}: cannot be read as a checkpoint ({reason}); train the model again") from error
        except GenrecError as error:
            raise GenrecError(f"{folder}: {error}") from error
        model, report = loaded
        shapes = [f"{name} {tuple(saved)} in place of {tuple(own)}" for name, saved, own in report["mismatched_keys"]]
        faults = {"missing": report["missing_keys"], "unknown": report["unexpected_keys"], "of another shape": shapes}
        if any(faults.values()):
            named = "; ".join(f"{fault}: {_listed(names)}" for fault, names in faults.items() if names)
            raise GenrecError(
                f"{folder}: its weights are not those of this version's {cls.__name__} ({named}); "
                "train the model again, or load it with the version that trained it"
            )
        return cast(Self, model)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
