"""From a window of a clip to masks: routing, batching, the loaded model, shadow traffic."""
