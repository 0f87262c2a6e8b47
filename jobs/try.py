"""Serve the trained model that comes with the product: its endpoint and page, without data and training.

    make try                           # what users type; prepares the environment first
    python jobs/try.py --endpoint-port 8001

Starts Ray and MLflow, or reuses them, fetches the pretrained encoders and registers the model as `sdavs-shipped`. The
champion of your own trainings stays what it is; `python jobs/deploy.py` serves it again.
"""

from _flags import add_ports, job_parser
from _job import run_job


def main() -> int:
    parser = job_parser(__doc__)
    add_ports(
        parser,
        ray=(6379, "Ray"),
        dashboard=(8265, "its dashboard"),
        mlflow=(5000, "MLflow"),
        endpoint=(8000, "the endpoint"),
    )
    flags = parser.parse_args()
    from sdavs_platform.local import stack, trial

    ports = stack.Ports(
        ray=flags.ray_port,
        dashboard=flags.dashboard_port,
        mlflow=flags.mlflow_port,
        endpoint=flags.endpoint_port,
    )
    return trial.run(ports=ports)


if __name__ == "__main__":
    run_job(main)
