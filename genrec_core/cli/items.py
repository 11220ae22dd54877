"""``genrec withdraw``, ``add-items`` and ``assign-ids``: items that go and items that come, without training."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_core.cli.options import Commands, add_command, new_folder
from genrec_core.errors import GenrecError
from genrec_core.settings import EmbeddingSettings, engine_from_environment

if TYPE_CHECKING:
    from genrec_core.engines.engine import Engine

_ITEMS = "CSV or *.jsonl: item_id, and text or the catalogue's fields"


def add_commands(commands: Commands) -> None:
    """Add ``withdraw``, ``add-items`` and ``assign-ids``."""
    about = "Take items out of an exported model without building it again, or bring them back."
    command = add_command(commands, "withdraw", _withdraw, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="the exported model (the served release's)")
    command.add_argument("--items", type=Path, required=True, metavar="FILE", help="item ids, one a line")
    command.add_argument("--restore", action="store_true", help="recommend them again")

    about = (
        "Add items to an exported model without training or exporting it again: they can be recommended at once. "
        "Without --model_dir the served release gets a successor that holds them and is served."
    )
    command = add_command(commands, "add-items", _add_items, about)
    command.add_argument("--model_dir", type=Path, metavar="DIR", help="the exported model (the served release's)")
    command.add_argument("--items", type=Path, required=True, metavar="FILE", help=_ITEMS)
    _add_text_encoder(command)
    about = "with --model_dir: a new folder (--model_dir is replaced)"
    command.add_argument("--output", type=new_folder, metavar="DIR", help=about)

    about = "Give new items semantic IDs from the stored codebooks; existing codes stay as they are."
    command = add_command(commands, "assign-ids", _assign_ids, about)
    command.add_argument("--semantic_ids", type=Path, metavar="DIR", help="the semantic IDs so far (the newest)")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--items", type=Path, metavar="FILE", help=_ITEMS)
    source.add_argument("--vectors", type=Path, metavar="NPY", help="vectors [items, dim] of the same embedding model")
    command.add_argument("--item_ids", type=Path, metavar="JSON", help="with --vectors: array of the ids")
    command.add_argument(
        "--embeddings", type=Path, metavar="DIR", help="item embeddings that name the model (the newest)"
    )
    _add_text_encoder(command)
    command.add_argument(
        "--output", type=new_folder, required=True, metavar="DIR", help="a new folder: old and new items"
    )


def _add_text_encoder(command: argparse.ArgumentParser) -> None:
    """How the texts of ``--items`` become vectors."""
    command.add_argument(
        "--text_template", metavar="TEXT", help="with --items: template of the texts (the catalogue's)"
    )
    command.add_argument(
        "--text_encoder", type=Path, metavar="DIR",
        help="with --items: the folder of export-text-encoder (the newest where torch is absent, else torch embeds)",
    )  # fmt: skip


def _withdraw(options: argparse.Namespace) -> None:
    from genrec_core.bundle.model_folder import ModelFolder
    from genrec_core.data.ids import are_text
    from genrec_core.recommend.constraints import read_item_list
    from genrec_core.releases.pointer import served_model, withdraw_from_served

    folder = options.model_dir
    items = read_item_list(options.items, are_text(ModelFolder(folder or served_model()).item_ids))
    if folder:
        done = ModelFolder(folder).withdraw(items, options.restore)
    else:
        folder, done = withdraw_from_served(items, options.restore)
    print(
        f"{done.changed} items {'restored' if options.restore else 'withdrawn'}; {done.withdrawn} are withdrawn now, "
        f"{done.left} can be recommended: {folder}",
        file=sys.stderr,
    )


def _add_items(options: argparse.Namespace) -> None:
    from genrec_core.bundle.item_additions import AdditionSettings, add_items, texts_of
    from genrec_core.bundle.model_folder import ModelFolder
    from genrec_core.bundle.new_items import read_new_items
    from genrec_core.releases.pointer import MODEL, RELEASES, add_to_served, require_pointer
    from genrec_core.storage.folders import version_folder

    if options.output and not options.model_dir:
        raise GenrecError("--output belongs to --model_dir: the served release gets a successor in the storage")
    before = None if options.model_dir else require_pointer()
    model_dir = version_folder(RELEASES, before.version) / MODEL if before else options.model_dir
    settings = AdditionSettings.load(model_dir)
    fields = settings.item_fields.with_template(options.text_template)
    new = read_new_items(options.items, fields, ModelFolder(model_dir).item_ids.dtype.kind == "U")
    known = texts_of(model_dir, fields)
    new.require_texts(options.items)
    vectors = _text_vectors(new.texts, settings.embedding(), options.text_encoder, None)
    if before:
        version, codes = add_to_served(new, vectors, before)
        place = f"release {version}, which is served"
    else:
        codes = add_items(model_dir, new, vectors, options.output)
        place = str(options.output or model_dir)
    _print_codes(new.item_ids, codes)
    _warn_of_texts_not_told_apart(new.texts, vectors, *known)
    print(f"{len(codes)} items added: {place}", file=sys.stderr)


def _assign_ids(options: argparse.Namespace) -> None:
    from genrec_core.bundle.new_items import read_item_ids, read_vectors
    from genrec_core.engines.engine import open_engine
    from genrec_core.quantization.update import assign_ids
    from genrec_core.storage.folders import latest

    if (options.vectors is None) != (options.item_ids is None):
        raise GenrecError("--vectors and --item_ids belong together: give one id for each vector")
    folder = options.semantic_ids or latest("semantic_ids")
    with open_engine(engine_from_environment()) as engine:
        if options.vectors:
            item_ids, vectors = read_item_ids(options.item_ids), read_vectors(options.vectors)
        else:
            item_ids, vectors = _embedded(options, engine)
        extended = assign_ids(folder, item_ids.tolist(), vectors, options.output, engine)
    _print_codes(item_ids, extended.codes[len(extended.codes) - len(item_ids) :])
    print(f"{len(item_ids)} new items, {len(extended.codes)} in all: {options.output}", file=sys.stderr)


def _embedded(options: argparse.Namespace, engine: "Engine | None") -> tuple[Any, Any]:
    """Ids and vectors of ``--items``, by the model that embedded the catalogue."""
    from genrec_core.bundle.new_items import read_new_items
    from genrec_core.embedding.item_embeddings import ITEM_TEXT, ItemEmbeddings, item_fields, text_settings
    from genrec_core.storage.artifacts import read_json
    from genrec_core.storage.folders import latest

    folder = options.embeddings or latest("item_embeddings")
    known = ItemEmbeddings.load(folder)
    fields = item_fields(folder).with_template(options.text_template)
    new = read_new_items(options.items, fields, known.item_ids.dtype.kind == "U")
    texts = new.texts_or_ids()
    vectors = _text_vectors(texts, text_settings(folder), options.text_encoder, engine)
    _warn_of_texts_not_told_apart(texts, vectors, read_json(folder / ITEM_TEXT), known.l2norm)
    return new.item_ids, vectors


def _text_vectors(
    texts: list[str], settings: EmbeddingSettings, text_encoder: Path | None, engine: "Engine | None"
) -> Any:
    """Vectors float32 [n, dim] as ``settings`` say, or by an exported encoder if one is named or torch is absent."""
    from importlib.util import find_spec

    from genrec_core.storage.folders import latest

    if text_encoder is None and find_spec("torch") is not None:
        from genrec_core.embedding.text import embed_texts

        return embed_texts(texts, settings, engine=engine)
    from genrec_core.embedding.onnx_text import OnnxTextEncoder

    try:
        folder = text_encoder or latest("text_encoder")
    except GenrecError as error:
        remedy = "run genrec export-text-encoder where torch is, and name its folder with --text_encoder"
        raise GenrecError(f"torch is not installed and no text encoder was exported; {remedy}") from error
    encoder = OnnxTextEncoder(folder)
    if encoder.model != settings.model:
        raise GenrecError(
            f"{folder} holds {encoder.model}, but {settings.model} embedded the catalogue; export that one"
        )
    return encoder.embed(texts)


def _warn_of_texts_not_told_apart(texts: list[str], vectors: Any, known_texts: list[str], known_vectors: Any) -> None:
    """Say which new texts the embedding model cannot tell from another text; known vectors have length 1."""
    import numpy as np

    from genrec_core.embedding.item_embeddings import l2_normalized, rows_not_told_apart

    all_vectors = np.concatenate([known_vectors, l2_normalized(vectors)])
    rows = rows_not_told_apart([*known_texts, *texts], all_vectors)
    alike = [texts[row - len(known_texts)] for row in rows.tolist() if row >= len(known_texts)]
    if alike:
        print(
            f"genrec: warning: {len(alike)} of {len(texts)} new items have the text vector of an item with another "
            f"text, such as {alike[0][:80]!r}; to read their script, train with a multilingual item_embeddings.model",
            file=sys.stderr,
        )


def _print_codes(item_ids: Any, codes: Any) -> None:
    for item_id, code in zip(item_ids.tolist(), codes.tolist(), strict=True):
        print(item_id, *code)
