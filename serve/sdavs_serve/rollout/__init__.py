"""How a new version takes over: verified, loaded next to the old one, compared, given traffic step by step."""
