"""What a run will take before it is started: time, storage, memory, GPU-hours. `python -m pipelines.forecast --help`"""
