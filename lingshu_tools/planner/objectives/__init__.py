"""Objectives of screens: what a call asks for, resolved, and what a plan keeps of it."""
