"""Settings of the catalogue."""

from pydantic import Field

from genrec_core.settings.base import Settings

DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    text_template: str = Field(
        DEFAULT_TEXT_TEMPLATE,
        description="Item text; fields: title, brand, categories, price, description. A part whose field is absent "
        "(parts end with ';') is left out.",
    )
