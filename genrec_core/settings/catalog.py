"""Settings of the catalogue."""

from pydantic import Field

from genrec_core.settings.base import Settings

DEFAULT_TEXT_TEMPLATE = "Title: {title}; Brand: {brand}; Categories: {categories}; Price: {price};"


class CatalogSettings(Settings):
    """How an item becomes a line of text."""

    text_template: str = Field(
        DEFAULT_TEXT_TEMPLATE,
        description="Template of an item's text. Fields: title, brand, categories, price, description. Each part ends "
        "with ';'. An item that lacks a part's field gets its text without that part.",
    )
