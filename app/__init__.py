"""Progress Tracking: which lessons a learner has completed, and exactly how far they are.

Python runs this file before any module of the package. So it imports nothing: the check before a start and the tasks of
make would otherwise load Flask and the whole service, which takes longer than what they do.
"""
