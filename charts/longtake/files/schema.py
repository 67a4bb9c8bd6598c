"""Wait until the database has the schema of this MLflow, which the migration job gives it.

The address comes from MLFLOW_BACKEND_STORE_URI and the password from PGPASSWORD, so that no command line shows it.
"""

import argparse
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError

EVERY_S = 2


def wanted() -> str | None:
    """The revision that this MLflow needs, read from its folder: no need to import all of it."""
    package = Path(find_spec("mlflow").origin).parent
    return ScriptDirectory(str(package / "store" / "db_migrations")).get_current_head()


def found(engine) -> str | None:
    """The revision that the database has; None on an empty one."""
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timeout", type=float, required=True, help="seconds")
    deadline = time.monotonic() + parser.parse_args().timeout
    engine, head, said = create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"]), wanted(), None
    while True:
        try:
            revision = found(engine)
            if revision == head:
                print(f"schema {head}")
                return None
            state = f"the database has schema {revision}, this MLflow needs {head}"
        except OperationalError as error:
            state = str(error.orig).strip().splitlines()[0]
        if time.monotonic() > deadline:
            return f"gave up: {state}"
        if state != said:
            print(f"waiting: {state}", flush=True)
        said = state
        time.sleep(EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
