"""How a batch moves, for those who watch it: reads made together, one listener, one topic for each batch watched."""
