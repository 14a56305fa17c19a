"""Who takes part in ``vitrail bench``, and how each does its work: one file a library, imported in its process only."""
