"""What models, data loading and scaling cost: measured, and predicted where it cannot be measured here."""
