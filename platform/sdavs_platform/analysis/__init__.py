"""The paper's analyses of a registered model: run over a data set, drawn, written out, logged to the model's run."""
