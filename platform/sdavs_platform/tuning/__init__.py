"""Many trainings as one object: search spaces, ablation studies, their trials and what these leave behind."""
