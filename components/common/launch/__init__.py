"""One stage, many processes: what stands before `python -m components.<stage>` where a stage has several GPUs or nodes.

    __main__.py   the command line
    settings.py   what a node of a TrainJob gets; the command that the compiler writes
    torchrun.py   the processes of one node
    handover.py   how inputs and outputs travel between the launching pod and the nodes
    manifest.py   the TrainJob
    kube.py       the few requests made to the Kubernetes API, patiently
    pods.py       what a pod's state means, in words
    patience.py   how long which trouble is borne, and which is the cause
    log.py        rank 0's lines
    watched.py    a job does not outlive who watches it
    trainjob.py   create, watch, collect

Torch and the `kubernetes` client are imported when they are needed.
"""
