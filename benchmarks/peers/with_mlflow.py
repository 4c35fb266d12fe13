"""MLflow's own client at its own server: a model file logged in a run, and registered as a version.

Started with MLFLOW_TRACKING_URI. Answers each line, the path of a file, with the seconds that logging and registering
took, as JSON. This is the least that its client does: no environment is recorded, and no example.
"""

import json
import logging
import sys
import time

import mlflow
from mlflow import MlflowClient


def main() -> None:
    """Answer until the input ends."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    told, sys.stdout = sys.stdout, sys.stderr
    client = MlflowClient()
    mlflow.set_experiment("bench")
    client.create_registered_model("bench")
    for line in sys.stdin:
        start = time.perf_counter()
        with mlflow.start_run() as run:
            mlflow.log_artifact(line.strip(), "model")
        logged = time.perf_counter()
        client.create_model_version("bench", f"{run.info.artifact_uri}/model", run.info.run_id)
        took = [logged - start, time.perf_counter() - logged]
        told.write(json.dumps(took) + "\n")
        told.flush()


if __name__ == "__main__":
    main()
