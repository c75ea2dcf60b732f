"""What stands behind `bpo_utils.train`: batches, checkpoints, stopping, the log, and the plan before the job."""
