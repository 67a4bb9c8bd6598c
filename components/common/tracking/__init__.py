"""Tracking, journal first.

Every parameter, metric and artifact goes to an append-only journal on the local disk. A forwarder, a process of its
own, sends the journal to MLflow in batches. A server that is slow, away or broken therefore costs a stage nothing and
loses nothing: what was not sent is sent by the next stage, or by `python -m components.common.tracking sync`.
"""

from components.common.tracking.tracker import Tracker

__all__ = ["Tracker"]
