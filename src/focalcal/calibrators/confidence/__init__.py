"""Families that change how sure a row is, all classes alike."""
