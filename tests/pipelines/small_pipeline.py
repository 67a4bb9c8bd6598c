"""A compiled pipeline of four tasks in the form that the compiler gives them: exit handler, loop, retries."""

from pathlib import Path
from typing import Any

from pipelines.submit import spec


def compiled(folder: Path, image: str = "longtake/data:dev") -> list[dict[str, Any]]:
    """Compiled by the real compiler: make -> use (in a loop) and make -> judge, then finish.

    kfp reads the annotations of these functions as they are: they must not be deferred in this file.
    """
    from kfp import compiler, dsl, kubernetes
    from kfp.dsl import Dataset, Input, Metrics, Output

    @dsl.container_component
    def make(seed: int, download__sample: dict, code_hash: str, data: Output[Dataset]):
        return dsl.ContainerSpec(
            image=image, command=["python", "-m", "components.download"], args=["--data", data.path]
        )

    @dsl.container_component
    def use(part: str, videos: Input[Dataset], frames: Output[Dataset]):
        return dsl.ContainerSpec(image=image, command=["python"], args=[part, videos.path, frames.path])

    @dsl.container_component
    def judge(seed: int, videos: Input[Dataset], metrics: Output[Metrics]):
        return dsl.ContainerSpec(image=image, command=["python"], args=[videos.path, metrics.path])

    @dsl.container_component
    def finish(git_revision: str):
        return dsl.ContainerSpec(image=image, command=["python"], args=[git_revision])

    @dsl.pipeline(name="longtake")
    def pipeline(seed: int = 0, git_revision: str = "abc", download__sample: dict = {"clips": 4}):  # noqa: B006
        with dsl.ExitHandler(finish(git_revision=git_revision)):
            made = make(seed=seed, download__sample=download__sample, code_hash="c0de")
            made.set_display_name("download@sample").set_retry(2, backoff_max_duration="1209600s")
            kubernetes.use_secret_as_env(made, secret_name="s", secret_key_to_env={"A": "B"})
            with dsl.ParallelFor(["1/3", "2/3", "3/3"], parallelism=2) as part:
                use(part=part, videos=made.outputs["data"])
            judge(seed=seed, videos=made.outputs["data"])

    file = folder / "pipeline.yaml"
    compiler.Compiler().compile(pipeline, str(file))
    return spec.read_documents(file)
