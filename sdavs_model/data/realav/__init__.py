"""RealAV: clips composed of real photographs and recordings, written in the layouts of the benchmarks."""
