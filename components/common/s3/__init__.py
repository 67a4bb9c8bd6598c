"""Inputs and outputs that lie in an S3-speaking store.

    address.py   what `s3://bucket/key` means, told apart from a path
    params.py    how hard to try, how much to keep on disk
    store.py     one request at a time, tried again where that can help
    errors.py    the store's answers as one clear line
    fetch.py     objects to files, part by part, resumable
    copies.py    whole artifacts as local folders, kept for the next stage
    blocks.py    a bounded cache of pieces of objects, shared by processes
    files.py     files of an artifact read by range through that cache
    upload.py    a folder to a prefix, taken for whole only at its end
    outgoing.py  a stage's outputs that go to a store

boto3 is imported when the first request is made: a machine that reads local paths does not need it.
"""
