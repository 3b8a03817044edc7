"""Jobs on clusters: submitted through the job server of Ray, or as manifests for Kubernetes and Slurm."""
