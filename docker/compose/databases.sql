-- Beside the database of Dagster, which the server makes itself: both keep a table alembic_version.
CREATE DATABASE mlflow;
