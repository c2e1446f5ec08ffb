"""Documents to datasets: reads sources, encodes them in worker processes, writes dataset folders."""
