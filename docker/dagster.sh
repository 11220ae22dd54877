#!/bin/sh
# What the dagster image runs: webserver, daemon, code (a code location for another Dagster), or any command.
set -eu
DAGSTER_HOME=$(python -m genrec_dagster.instance)
export DAGSTER_HOME
role=${1:-webserver}
echo "$role" > /tmp/role  # for the health check
case $role in
  webserver) exec dagster-webserver -h 0.0.0.0 -p 3000 -w /etc/genrec/workspace.yaml ;;
  daemon) exec dagster-daemon run -w /etc/genrec/workspace.yaml ;;
  code) exec dagster code-server start -h 0.0.0.0 -p 4000 -m genrec_dagster.definitions ;;
  *) exec "$@" ;;
esac
