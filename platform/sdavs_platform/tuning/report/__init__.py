"""The report of a sweep: its records -> tables and charts -> one HTML file, Markdown and CSV."""
