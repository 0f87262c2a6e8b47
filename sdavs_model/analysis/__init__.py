"""Looking inside a trained model, without a cluster: the measurements behind the paper's IV-C to IV-E and IV-H."""
