"""Bounds of the launchpad's settings, refused before a run is launched.

Dagster's form knows types and choices, not bounds: the page validates against a snapshot without them, and pydantic
sees a setting only when its step begins. In between, the code location reads a launched configuration once, to plan the
run. Each form is checked there.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import dagster as dg
from pydantic import BaseModel, ValidationError

from genrec_core.errors import GenrecError

Form = TypeVar("Form", bound=BaseModel)


def checked_at_launch(form: type[Form]) -> type[Form]:
    """Class decorator: a launch with a value out of ``form``'s bounds is refused with its name, value and bound."""

    def check(values: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            form.model_validate(values)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc']))}={fault['input']}: {fault['msg']}" for fault in error.errors()
            ]
            raise GenrecError(f"{form.__name__}: {'; '.join(faults)}") from error
        return values

    assert issubclass(form, dg.Config)
    # Dagster keeps one shape for equal fields, so this is the one that the steps and resources get.
    shape = form.to_config_schema().as_field().config_type
    object.__setattr__(shape, "post_process", check)
    return form
