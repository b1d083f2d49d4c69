"""What people look at, made from tables, JSON and arrays: plots, the report, the model card."""
