"""The tasks of each topic, in the order of the lessons: one file each."""

from sltools.exercises.topics import (
    audits,
    auxiliary,
    depth,
    inversion,
    labels,
    leakage,
    malicious,
    poisoning,
    privacy,
    protocol,
    theft,
    threats,
)
