"""Write the report: one self-contained HTML file."""
