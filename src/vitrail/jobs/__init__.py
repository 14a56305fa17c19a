"""The verbs: one module each, with its config; what several of them share lies beside them.

Nothing is imported here, so that a verb costs what it needs and not what all of them do. From outside:
``vitrail.train(vitrail.TrainConfig(...))``.
"""
