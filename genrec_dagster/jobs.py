"""What can be run by name: everything, the model alone, predictions alone. Each with the checks of its assets."""

import dagster as dg

full_graph = dg.define_asset_job(
    "full_graph",
    selection=dg.AssetSelection.all(),
    description="Raw files to predictions, through every check.",
)

# Embeddings and semantic IDs are taken from storage.
train_model = dg.define_asset_job(
    "train_model",
    selection=dg.AssetSelection.groups("model"),
    description="Train, measure and export a model on the semantic IDs in storage.",
)

predict = dg.define_asset_job(
    "predict",
    selection=dg.AssetSelection.groups("serving"),
    description="Predictions for the users in storage, from the exported model in storage.",
)

JOBS = [full_graph, train_model, predict]
