#!/bin/sh
# What the dagster image runs: webserver, daemon, code (a code location for another Dagster), mlflow, pages, or any command.
# GENREC_HOST and GENREC_PORT say where it listens; the image says everywhere, as its publisher decides who gets there.
set -eu
etc=${GENREC_ETC:-/etc/genrec}
host=${GENREC_HOST:-127.0.0.1}
if [ "${1:-}" = pages ]; then  # they need no database
  echo pages > "${TMPDIR:-/tmp}/role"
  export PAGES_HOST="$host" PAGES_PORT="${GENREC_PORT:-3001}"
  exec python -m genrec_dagster.pages
fi
if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then  # where libpq looks for it: in no address, no environment and no log
  (umask 077 && sed '1{s/[\\:]/\\&/g;s/^/*:*:*:*:/};q' "$POSTGRES_PASSWORD_FILE" > "$PGPASSFILE")
fi
role=${1:-webserver}
echo "$role" > "${TMPDIR:-/tmp}/role"  # for the health check
if [ "$role" = mlflow ]; then
  export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
  exec mlflow server --host "$host" --port "${GENREC_PORT:-5000}" --workers 1 --serve-artifacts \
    --artifacts-destination "${GENREC_DATA:-/data}/mlflow/artifacts"
fi
DAGSTER_HOME=$(python -m genrec_dagster.instance)
export DAGSTER_HOME
if [ -f "$etc/dagster.yaml" ]; then cp "$etc/dagster.yaml" "$DAGSTER_HOME/dagster.yaml"; fi
case $role in
  webserver) exec dagster-webserver -h "$host" -p "${GENREC_PORT:-3000}" -w "$etc/workspace.yaml" ;;
  daemon) exec dagster-daemon run -w "$etc/workspace.yaml" ;;
  code) exec dagster code-server start -h "$host" -p "${GENREC_PORT:-4000}" -m genrec_dagster.definitions ;;
  *) exec "$@" ;;
esac
