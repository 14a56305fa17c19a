"""What ``vitrail pretrain`` is made of: the table of methods, their views and data, what is measured and shown."""
