"""Submit the pipeline to Kubeflow, watch it, fetch what it made."""
