"""The sample world: a toy land filmed by a moving camera, with exact truth in the real benchmarks' layouts.

Entry: `components.download.world.write.write_world`. This module imports nothing, so that `--help` stays quick.
"""
