"""What a run is: its specification, its file, and the weights of its datasets."""
