"""The endpoint on Ray Serve: takes video with sound over HTTP, returns masks of what is making the sound."""
