"""Families with numbers for each class or pair of classes, before the softmax."""
