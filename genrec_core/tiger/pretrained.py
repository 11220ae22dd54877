"""A model whose checkpoint is loaded whole or not at all: transformers alone fills what it does not find at random."""

from os import PathLike
from pathlib import Path
from typing import Any, Self

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
        """Load the folder that ``save_pretrained`` wrote.

        Args:
            pretrained_model_name_or_path: the folder.
            arguments: as transformers takes them.
            options: likewise.

        Raises:
            GenrecError: a file is missing or damaged, the sizes cannot be a model's, or the weights are not exactly
                those of the model; names them.
        """
        folder = pretrained_model_name_or_path
        if folder is not None:
            recovered(Path(folder))
        options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that they are named below
        options |= {"use_safetensors": True}  # the other form is a pickle
        try:
            loaded: Any = super().from_pretrained(folder, *arguments, **options)
        except (OSError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise GenrecError(f"{folder}: cannot be read as a checkpoint ({reason}); train the model again") from error
        except GenrecError as error:
            raise GenrecError(f"{folder}: {error}") from error
        model, found = loaded
        shapes = [f"{name} {tuple(there)} in place of {tuple(here)}" for name, there, here in found["mismatched_keys"]]
        faults = [
            *_named("missing", found["missing_keys"]),
            *_named("unknown", found["unexpected_keys"]),
            *_named("of another shape", shapes),
        ]
        if faults:
            raise GenrecError(
                f"{folder}: its weights are not those of this version's {cls.__name__} ({'; '.join(faults)}); "
                "train the model again, or load it with the version that trained it"
            )
        whole: Self = model
        return whole


def _named(fault: str, names: Any) -> list[str]:
    """``fault: name, name``, in alphabetical order; nothing where there is no name."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return [f"{fault}: {', '.join(ordered[:_SHOWN])}{more}"] if ordered else []
