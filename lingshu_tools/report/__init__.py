"""Experiments as a reader gets them: views, tables, pages and scripts."""
