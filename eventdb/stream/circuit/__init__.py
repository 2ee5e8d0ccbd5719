"""A query as a circuit of nodes over weighted changes: what came or went below becomes what comes or goes above."""
