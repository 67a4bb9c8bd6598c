"""MLflow's database: `upgrade` brings the schema to this MLflow, `wait` waits until somebody has.

The address comes from MLFLOW_BACKEND_STORE_URI and the password from PGPASSWORD, so that no command line shows it.
"""

import argparse
import os
import sys
import time

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from mlflow.store.db.utils import _get_alembic_config, _initialize_tables, _upgrade_db
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError


def revision(engine) -> str | None:
    """The schema's revision; None on an empty database."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head(url: str) -> str:
    """The revision that this MLflow needs."""
    return ScriptDirectory.from_config(_get_alembic_config(url)).get_current_head()


def upgrade(engine) -> None:
    if inspect(engine).has_table("experiments"):
        _upgrade_db(engine)
    else:
        _initialize_tables(engine)


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["upgrade", "wait"])
    parser.add_argument("--timeout", type=float, required=True, help="seconds")
    arguments = parser.parse_args()
    url = os.environ["MLFLOW_BACKEND_STORE_URI"]
    engine, deadline, said = create_engine(url), time.monotonic() + arguments.timeout, None
    while True:
        try:
            found = revision(engine)
            if found != head(url) and arguments.command == "upgrade":
                upgrade(engine)
                found = revision(engine)
            if found == head(url):
                print(f"schema {found}")
                return None
            state = f"schema {found}, this MLflow needs {head(url)}"
        except OperationalError as error:
            state = str(error.orig).strip().splitlines()[0]
        if time.monotonic() > deadline:
            return f"gave up: {state}"
        if state != said:
            print(f"waiting: {state}", flush=True)
        said = state
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
