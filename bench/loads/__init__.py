"""The workloads, one family per file; `catalogue` lists them all."""
