"""Measurements that take long: what they find is kept in `course/results/`."""
