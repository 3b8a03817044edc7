"""Run jobs on a cluster: submit to Ray's job server, or render manifests for Kubernetes and Slurm."""
