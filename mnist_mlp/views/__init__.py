"""What people look at: the terminal, plots, the report page, TensorBoard."""
