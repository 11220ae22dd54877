"""What all settings share: they are immutable and bounded."""

from typing import Annotated, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    main: ClassVar[tuple[str, ...]] = ()  # the fields that users change most; forms mark them


Form = TypeVar("Form", bound=Settings)
