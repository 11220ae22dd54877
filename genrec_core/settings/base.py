"""What all settings share: they are immutable, bounded, and may be read from environment variables."""

import os
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from genrec_core.errors import GenrecError


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Form = TypeVar("Form", bound=Settings)


def settings_from_environment(form: type[Form], variables: dict[str, str]) -> Form:
    """Read fields from environment variables, named by field; an unset or empty variable leaves the default."""
    values = {name: os.environ[variable] for name, variable in variables.items() if os.environ.get(variable)}
    try:
        return form.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        variable = variables[str(fault["loc"][0])]
        raise GenrecError(f"{variable}={fault['input']}: {fault['msg']}") from error
