"""``python -m genrec_dagster.instance`` prepares ``DAGSTER_HOME`` and prints it for a shell."""

from genrec_dagster.instance import prepare_home

if __name__ == "__main__":
    print(prepare_home())
