"""How a new version takes over: verified, loaded beside the old one, compared, given traffic step by step."""
