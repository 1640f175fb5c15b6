"""What makes pages of the documentation from the code, and the site from all pages."""
