"""Fault tolerance: retries, stop requests and preemption, hung workers, loss spikes, the lease on a name."""
