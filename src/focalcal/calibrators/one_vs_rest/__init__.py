"""Families that calibrate each class against the rest."""
