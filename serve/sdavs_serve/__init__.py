"""The endpoint: video with sound in over HTTP, masks of what sounds out, on Ray Serve."""
