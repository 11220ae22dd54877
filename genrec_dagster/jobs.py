"""What can be run by name: everything, the model, predictions, the way back. Each with the checks of its assets."""

import dagster as dg

full_graph = dg.define_asset_job(
    "full_graph",
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups("requests"),  # these need a file each
    description="Raw files to predictions, through every check.",
)

# Embeddings and semantic IDs are taken from storage.
train_model = dg.define_asset_job(
    "train_model",
    selection=dg.AssetSelection.groups("model"),
    description="Train, measure, export and release a model on the semantic IDs in storage.",
)

predict = dg.define_asset_job(
    "predict",
    selection=dg.AssetSelection.groups("serving"),
    description="Predictions for the users in storage, by the release that is served.",
)

# "previous" is what is wanted in a hurry; `to` may name any version that was served before.
roll_back = dg.define_asset_job(
    "roll_back",
    selection=dg.AssetSelection.assets("served_release"),
    config={"ops": {"served_release": {"config": {"to": "previous"}}}},
    description="Serve the release before the one that is served.",
)

JOBS = [full_graph, train_model, predict, roll_back]
