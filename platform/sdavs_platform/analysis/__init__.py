"""The paper's analyses of a trained model: run on a data set, plotted, written to disk, logged to the model's run."""
