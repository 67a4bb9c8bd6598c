"""The evaluations, one file each; a file of this folder is a task of its name."""
