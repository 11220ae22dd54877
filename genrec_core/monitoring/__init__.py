"""Has the world moved away from the model: drift of data, and what files of predictions look like."""
